//! Windowed attention over a ring of keys and values, one slot and head at a time.
//!
//! The ring holds `capacity` steps (the context rounded up to whole vectors). Keys are stored
//! transposed, `[head_dim, capacity]`, so that sixteen scores come from sixteen lanes without
//! horizontal sums; values are `[capacity, head_dim]`. Position `p` lives at ring index
//! `p % capacity`; sums run over ring indices in order, so a result depends on positions only and
//! not on how the stream was cut into calls.

use std::cell::RefCell;

use super::isa::{Isa, kernel};
use super::ops::exp;
use super::pool::{self, Shared};
use super::simd::Simd;

/// Shape of one layer's ring in one slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvShape {
    pub heads: usize,
    pub head_dim: usize,
    /// Steps kept; a multiple of 16.
    pub capacity: usize,
}

impl KvShape {
    pub(crate) fn new(heads: usize, head_dim: usize, context: usize) -> Self {
        Self {
            heads,
            head_dim,
            capacity: context.next_multiple_of(16),
        }
    }

    /// Floats of a value row: the head's width in whole vectors.
    fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Floats of one head: transposed keys, then values.
    fn head_len(&self) -> usize {
        (self.head_dim + self.value_width()) * self.capacity
    }

    /// Floats of one layer in one slot.
    pub(crate) fn len(&self) -> usize {
        self.heads * self.head_len()
    }
}

/// One attention layer over the active slots of a step.
pub(crate) struct Attention<'a> {
    pub shape: KvShape,
    /// Steps in this call, per slot.
    pub steps: usize,
    /// Steps whose keys are all written before the first of them attends.
    pub group: usize,
    /// Keys a query sees at most; see `first_visible`.
    pub context: usize,
    /// Queries, keys and values: `[active * steps, 3 * heads * head_dim]`.
    pub qkv: &'a [f32],
    /// Rotary cosines and sines: `[active * steps, head_dim]`, interleaved.
    pub rope: &'a [f32],
    /// Result: `[active * steps, heads * head_dim]`.
    pub out: &'a mut [f32],
    /// Position of each active slot before this call.
    pub positions: &'a [u64],
}

/// First key that the query at `pos` sees: keys of a group are written first, so the ring of
/// `context` steps has then lost the oldest (docs/spec/mimi.md 3.1; `group` 1 is the whole-signal
/// rule).
fn first_visible(pos: u64, group: usize, context: usize) -> u64 {
    let group = group as u64;
    (pos - pos % group + group).saturating_sub(context as u64)
}

/// Writes the new keys and values to the rings of the active slots and attends.
/// `rings[i]` is this layer's ring of active slot `i`.
pub(crate) fn attend(isa: Isa, job: Attention<'_>, rings: &mut [&mut [f32]]) {
    let Attention {
        shape,
        steps,
        group,
        context,
        qkv,
        rope,
        out,
        positions,
    } = job;
    let (active, width) = (positions.len(), shape.heads * shape.head_dim);
    assert!(qkv.len() >= active * steps * 3 * width && out.len() >= active * steps * width);
    assert!(rope.len() >= active * steps * shape.head_dim && context <= shape.capacity);
    assert!(rings.len() == active && rings.iter().all(|r| r.len() == shape.len()));
    let rings: Vec<_> = rings.iter_mut().map(|r| Shared::new(r)).collect();
    let out = Shared::new(out);
    pool::for_each(active * shape.heads, |task| {
        let (slot, head) = (task / shape.heads, task % shape.heads);
        let one = Head {
            shape,
            steps,
            group,
            context,
            pos: positions[slot],
            qkv: &qkv[slot * steps * 3 * width + head * shape.head_dim..],
            rope: &rope[slot * steps * shape.head_dim..],
        };
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(shape.capacity + 2 * shape.value_width(), 0.0);
            // SAFETY: the lengths were checked above; each task has a head of its own, both in its
            // slot's ring and in the output; tasks of one thread do not nest.
            unsafe {
                let ring = rings[slot].get().add(head * shape.head_len());
                let out = out.get().add(slot * steps * width + head * shape.head_dim);
                one_head(isa, &one, scratch, ring, out);
            }
        });
    });
}

thread_local! {
    /// Scores of a head, its rotated query, its sums.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What one head of one slot reads.
struct Head<'a> {
    shape: KvShape,
    steps: usize,
    group: usize,
    context: usize,
    pos: u64,
    qkv: &'a [f32],
    rope: &'a [f32],
}

kernel! {
    /// All steps of one head of one slot.
    fn one_head = head_body(job: &Head<'_>, scratch: &mut [f32], ring: *mut f32, out: *mut f32)
}

#[inline(always)]
unsafe fn head_body<S: Simd>(job: &Head<'_>, scratch: &mut [f32], ring: *mut f32, out: *mut f32) {
    let KvShape {
        heads,
        head_dim,
        capacity,
    } = job.shape;
    let (width, value_width) = (heads * head_dim, job.shape.value_width());
    let (scores, rest) = scratch.split_at_mut(capacity);
    let (query, sums) = rest.split_at_mut(value_width);
    let query = &mut query[..head_dim];
    let scale = 1.0 / (head_dim as f32).sqrt();
    // SAFETY: `attend` checked the lengths; `ring` has `head_len` floats: keys, then values; a
    // value row is whole vectors.
    unsafe {
        let keys = ring;
        let values = ring.add(head_dim * capacity);
        let mut step = 0;
        while step < job.steps {
            // The rest of the group that this step opens or continues.
            let ahead = job.group - ((job.pos + step as u64) % job.group as u64) as usize;
            let end = (step + ahead).min(job.steps);
            for t in step..end {
                let at = ((job.pos + t as u64) % capacity as u64) as usize;
                let k = &job.qkv[t * 3 * width + width..];
                let v = &job.qkv[t * 3 * width + 2 * width..];
                let angles = &job.rope[t * head_dim..];
                for i in (0..head_dim).step_by(2) {
                    let (c, s, a, b) = (angles[i], angles[i + 1], k[i], k[i + 1]);
                    *keys.add(i * capacity + at) = a * c - b * s;
                    *keys.add((i + 1) * capacity + at) = a * s + b * c;
                }
                let row = std::slice::from_raw_parts_mut(values.add(at * value_width), head_dim);
                row.copy_from_slice(&v[..head_dim]);
            }
            for t in step..end {
                let pos = job.pos + t as u64;
                let first = first_visible(pos, job.group, job.context);
                let q = &job.qkv[t * 3 * width..];
                let angles = &job.rope[t * head_dim..];
                for i in (0..head_dim).step_by(2) {
                    let (c, s, a, b) = (angles[i], angles[i + 1], q[i], q[i + 1]);
                    query[i] = (a * c - b * s) * scale;
                    query[i + 1] = (a * s + b * c) * scale;
                }
                // Ring indices that hold anything: all of them once the ring has gone round.
                let filled = (pos + 1).min(capacity as u64) as usize;
                let groups = filled.div_ceil(16);
                score::<S>(query, keys, capacity, groups, scores);
                mask(&mut scores[..groups * 16], pos, first, capacity);
                let total = softmax::<S>(&mut scores[..groups * 16]);
                weigh::<S>(&scores[..filled], values, value_width, sums);
                let row = std::slice::from_raw_parts_mut(out.add(t * width), head_dim);
                for (y, s) in row.iter_mut().zip(&*sums) {
                    *y = s / total;
                }
            }
            step = end;
        }
    }
}

/// Scores of the first `groups` vectors of ring indices, four vectors at a time.
#[inline(always)]
unsafe fn score<S: Simd>(
    query: &[f32],
    keys: *const f32,
    capacity: usize,
    groups: usize,
    scores: &mut [f32],
) {
    let mut g = 0;
    // SAFETY: `groups * 16 <= capacity`, and each of the query's rows has `capacity` keys.
    unsafe {
        while g < groups {
            let many = (groups - g).min(4);
            let mut acc = [S::splat(0.0); 4];
            for (d, &q) in query.iter().enumerate() {
                let row = keys.add(d * capacity + g * 16);
                let q = S::splat(q);
                if many == 4 {
                    for (j, a) in acc.iter_mut().enumerate() {
                        *a = S::fma(q, S::load(row.add(j * 16)), *a);
                    }
                } else {
                    for (j, a) in acc.iter_mut().enumerate().take(many) {
                        *a = S::fma(q, S::load(row.add(j * 16)), *a);
                    }
                }
            }
            for (j, a) in acc.iter().enumerate().take(many) {
                S::store(scores.as_mut_ptr().add((g + j) * 16), *a);
            }
            g += many;
        }
    }
}

/// Sets the scores of ring indices outside `first..=pos` to minus infinity.
#[inline(always)]
fn mask(scores: &mut [f32], pos: u64, first: u64, capacity: usize) {
    let seen = (pos - first + 1) as usize;
    let start = (first % capacity as u64) as usize;
    let end = start + seen;
    if end <= capacity {
        let (len, end) = (scores.len(), end.min(scores.len()));
        scores[..start.min(len)].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
    } else {
        scores[end - capacity..start].fill(f32::NEG_INFINITY);
    }
}

/// Exponentials of the scores against their maximum, exact zeros for masked ones; returns their
/// sum.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: &mut [f32]) -> f32 {
    // SAFETY: the length is a multiple of sixteen.
    unsafe {
        let mut best = S::splat(f32::NEG_INFINITY);
        for i in (0..scores.len()).step_by(16) {
            best = S::max(S::load(scores.as_ptr().add(i)), best);
        }
        let best = S::splat(S::hmax(best));
        let mut total = S::splat(0.0);
        for i in (0..scores.len()).step_by(16) {
            let x = S::sub(S::load(scores.as_ptr().add(i)), best);
            let e = S::select_lt(x, S::splat(-87.0), S::splat(0.0), exp::<S>(x));
            total = S::add(total, e);
            S::store(scores.as_mut_ptr().add(i), e);
        }
        S::sum(total)
    }
}

/// Weighted sum of the value rows, in ring order.
#[inline(always)]
unsafe fn weigh<S: Simd>(weights: &[f32], values: *const f32, width: usize, sums: &mut [f32]) {
    let mut d = 0;
    // SAFETY: every value row has `width` floats, a multiple of sixteen.
    unsafe {
        while d < width {
            let many = ((width - d) / 16).min(4);
            let mut acc = [S::splat(0.0); 4];
            for (j, &w) in weights.iter().enumerate() {
                let row = values.add(j * width + d);
                let w = S::splat(w);
                if many == 4 {
                    for (i, a) in acc.iter_mut().enumerate() {
                        *a = S::fma(w, S::load(row.add(i * 16)), *a);
                    }
                } else {
                    for (i, a) in acc.iter_mut().enumerate().take(many) {
                        *a = S::fma(w, S::load(row.add(i * 16)), *a);
                    }
                }
            }
            for (i, a) in acc.iter().enumerate().take(many) {
                S::store(sums.as_mut_ptr().add(d + i * 16), *a);
            }
            d += many * 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n)
            .map(|i| (i as f32 * f).sin() + (i as f32 * f * 0.37).cos())
            .collect()
    }

    /// Plain f64 attention of one stream with explicit windows.
    fn plain(
        qkv: &[f32],
        rope: &[f32],
        total: usize,
        shape: KvShape,
        group: usize,
        context: usize,
    ) -> Vec<f64> {
        let (hd, width) = (shape.head_dim, shape.heads * shape.head_dim);
        let turn = |x: &[f32], t: usize| -> Vec<f64> {
            let mut y = vec![0.0; hd];
            for i in (0..hd).step_by(2) {
                let (c, s) = (f64::from(rope[t * hd + i]), f64::from(rope[t * hd + i + 1]));
                let (a, b) = (f64::from(x[i]), f64::from(x[i + 1]));
                (y[i], y[i + 1]) = (a * c - b * s, a * s + b * c);
            }
            y
        };
        let mut out = vec![0.0; total * width];
        for h in 0..shape.heads {
            for p in 0..total {
                let q = turn(&qkv[p * 3 * width + h * hd..], p);
                let start = p - p % group;
                let lo = (start + group).saturating_sub(context);
                let scores: Vec<f64> = (lo..=p)
                    .map(|k| {
                        let key = turn(&qkv[k * 3 * width + width + h * hd..], k);
                        (q.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() / (hd as f64).sqrt())
                            .exp()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                for (i, w) in scores.iter().enumerate() {
                    for d in 0..hd {
                        let v = f64::from(qkv[(lo + i) * 3 * width + 2 * width + h * hd + d]);
                        out[p * width + h * hd + d] += w / sum * v;
                    }
                }
            }
        }
        out
    }

    /// Both window rules, several rings round, cut into calls in different ways.
    #[test]
    fn equals_plain_attention_however_it_is_cut() {
        for isa in Isa::available() {
            for (heads, head_dim, context) in [(2, 8, 10), (1, 64, 20), (2, 24, 16)] {
                for group in [1, 2] {
                    let shape = KvShape::new(heads, head_dim, context);
                    let (total, width) = (90, heads * head_dim);
                    let qkv = wave(total * 3 * width, 0.61);
                    let mut rope = vec![0.0; total * head_dim];
                    for t in 0..total {
                        super::super::rope_table(
                            t as u64,
                            head_dim,
                            10_000.0,
                            &mut rope[t * head_dim..],
                        );
                    }
                    let want = plain(&qkv, &rope, total, shape, group, context);
                    let mut results: Vec<Vec<f32>> = vec![];
                    for chunk in [2, 10, 90] {
                        let mut ring = vec![0f32; shape.len()];
                        let mut out = vec![0f32; total * width];
                        for t in (0..total).step_by(chunk) {
                            let steps = chunk.min(total - t);
                            attend(
                                isa,
                                Attention {
                                    shape,
                                    steps,
                                    group,
                                    context,
                                    qkv: &qkv[t * 3 * width..],
                                    rope: &rope[t * head_dim..],
                                    out: &mut out[t * width..],
                                    positions: &[t as u64],
                                },
                                &mut [&mut ring],
                            );
                        }
                        results.push(out);
                    }
                    for (x, y) in results[0].iter().zip(&want) {
                        assert!(
                            (f64::from(*x) - y).abs() < 3e-6,
                            "{isa:?} {heads} {head_dim} {group}"
                        );
                    }
                    assert!(
                        results.iter().all(|r| *r == results[0]),
                        "chunking changed bits"
                    );
                }
            }
        }
    }
}
