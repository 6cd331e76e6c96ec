//! Attention over the ring against plain references, for every instruction set and form of storage.

use super::*;
use crate::cpu::rope_table;

fn layout(bits: KvFormat, heads: usize, repeat: usize, hd: usize, context: usize) -> KvLayout {
    KvLayout {
        layers: 2,
        heads,
        repeat,
        head_dim: hd,
        context,
        bits,
        interleaved: true,
    }
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Attention of every step over all earlier ones in the window, in double precision.
fn plain(layout: &KvLayout, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let (h, r, hd) = (layout.heads, layout.repeat, layout.head_dim);
    let turn = |x: &[f32], pos: usize| -> Vec<f64> {
        let mut out = vec![0f64; hd];
        for i in 0..hd / 2 {
            let angle = pos as f64 * 10_000f64.powf(-2.0 * i as f64 / hd as f64);
            let (a, b) = match layout.interleaved {
                true => (2 * i, 2 * i + 1),
                false => (i, i + hd / 2),
            };
            let (x, y) = (f64::from(x[a]), f64::from(x[b]));
            out[a] = x * angle.cos() - y * angle.sin();
            out[b] = x * angle.sin() + y * angle.cos();
        }
        out
    };
    let step = |t: usize| -> Vec<f32> {
        let mut out = vec![];
        for q in 0..h * r {
            let query = turn(&rows[t][q * hd..][..hd], t);
            let first = (t + 1).saturating_sub(layout.context);
            let kv = q / r;
            let scores: Vec<f64> = (first..=t)
                .map(|s| {
                    let key = turn(&rows[s][(h * r + kv) * hd..][..hd], s);
                    let dot: f64 = key.iter().zip(&query).map(|(a, b)| a * b).sum();
                    dot / (hd as f64).sqrt()
                })
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..hd {
                let at = (h * r + h + kv) * hd + d;
                let sum: f64 = (first..=t)
                    .map(|s| weights[s - first] * f64::from(rows[s][at]))
                    .sum();
                out.push((sum / total) as f32);
            }
        }
        out
    };
    (0..rows.len()).map(step).collect()
}

fn run(isa: Isa, layout: &KvLayout, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let (mut pool, mut slot) = (KvPool::default(), KvSlot::default());
    // What a slot held before must not show.
    slot.skip(layout.capacity(), layout, &mut pool);
    for b in &mut slot.blocks {
        b.bytes_mut().fill(0x42);
    }
    slot.reset(&mut pool);
    let mut outs = vec![];
    for (t, row) in rows.iter().enumerate() {
        let mut rope = vec![0.0; layout.head_dim];
        rope_table(t as u64, layout.head_dim, 10_000.0, &mut rope);
        slot.prepare(layout, &mut pool);
        let mut out = vec![0f32; layout.out_width()];
        let job = KvAttention {
            layout: *layout,
            layer: 1,
            qkv: row,
            rope: &rope,
            out: &mut out,
        };
        attend_step(isa, job, &mut [&mut slot]);
        slot.pos += 1;
        outs.push(out);
    }
    outs
}

#[test]
fn equals_plain_attention_through_growth_and_wrap() {
    for (heads, repeat, hd, context, interleaved) in [
        (2, 1, 16, 12, true),
        (1, 2, 32, 64, true),
        (2, 1, 8, 100, false),
        (1, 1, 144, 70, true),
        (1, 1, 128, 65, true),
    ] {
        for (bits, tolerance) in [
            (KvFormat::F32, 3e-6),
            (KvFormat::Bf16, 8e-3),
            (KvFormat::Int8, 2e-2),
        ] {
            let mut layout = layout(bits, heads, repeat, hd, context);
            layout.interleaved = interleaved;
            let rows: Vec<_> = (0..300).map(|t| noise(layout.qkv_width(), t + 1)).collect();
            let want = plain(&layout, &rows);
            let mut first: Option<Vec<Vec<f32>>> = None;
            for isa in Isa::available() {
                let got = run(isa, &layout, &rows);
                for (t, (g, w)) in got.iter().zip(&want).enumerate() {
                    for (g, w) in g.iter().zip(w) {
                        assert!((g - w).abs() < tolerance, "{isa:?} {bits:?} {t} {g} {w}");
                    }
                }
                if isa != Isa::Portable {
                    assert!(*first.get_or_insert_with(|| got.clone()) == got);
                }
            }
        }
    }
}

/// The stored key and value of a position as numbers.
fn stored(layout: &KvLayout, slot: &KvSlot, head: usize, pos: usize) -> [Vec<f64>; 2] {
    let (hd, vw, block) = (layout.head_dim, layout.value_width(), layout.block());
    let [value_scales, keys, values, end] = layout.offsets();
    let (b, at) = (pos % layout.capacity() / block, pos % block);
    let run = &slot.blocks[b].bytes()[(layout.heads + head) * end..][..end];
    let scale = |start: usize| {
        let bytes = run[start + 4 * at..].first_chunk::<4>().unwrap();
        f64::from(f32::from_le_bytes(*bytes))
    };
    let byte = |at: usize| f64::from(run[at] as i8);
    let key = |d: usize| scale(0) * byte(keys + (d / 2 * block + at) * 2 + d % 2);
    let value = |d: usize| scale(value_scales) * byte(values + (at / 2 * vw + d) * 2 + at % 2);
    [(0..hd).map(key).collect(), (0..hd).map(value).collect()]
}

#[test]
fn integer_attention_equals_double_precision_on_what_is_stored() {
    for (hd, context, steps) in [(8, 12, 30), (32, 100, 90), (128, 130, 300), (640, 64, 70)] {
        let layout = layout(KvFormat::Int8, 2, 2, hd, context);
        let rows: Vec<_> = (0..steps)
            .map(|t| noise(layout.qkv_width(), t as u32 + 1))
            .collect();
        for isa in Isa::available() {
            let (mut pool, mut slot) = (KvPool::default(), KvSlot::default());
            for row in &rows {
                slot.prepare(&layout, &mut pool);
                let mut out = vec![0f32; layout.out_width()];
                let job = KvAttention {
                    layout,
                    layer: 1,
                    qkv: row,
                    rope: &[],
                    out: &mut out,
                };
                attend_step(isa, job, &mut [&mut slot]);
                let now = slot.pos as usize;
                slot.pos += 1;
                let first = (now + 1).saturating_sub(context);
                for (query, got) in out.chunks(hd).enumerate() {
                    let seen = first..=now;
                    let seen = seen.map(|pos| stored(&layout, &slot, query / 2, pos));
                    let kept: Vec<_> = seen.collect();
                    let x = &row[query * hd..][..hd];
                    let score = |[key, _]: &[Vec<f64>; 2]| {
                        let dot: f64 = x.iter().zip(key).map(|(x, k)| f64::from(*x) * k).sum();
                        (dot / (hd as f64).sqrt()).exp()
                    };
                    let weights: Vec<f64> = kept.iter().map(score).collect();
                    let total: f64 = weights.iter().sum();
                    for (d, got) in got.iter().enumerate() {
                        let sum = weights
                            .iter()
                            .zip(&kept)
                            .map(|(w, [_, value])| w * value[d]);
                        let want = sum.sum::<f64>() / total;
                        let error = (f64::from(*got) - want).abs();
                        assert!(error < 1e-4, "{isa:?} {hd} {now} {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn heads_of_a_task_and_slots_of_a_step_do_not_matter() {
    for bits in [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8] {
        let layout = layout(bits, 24, 1, 16, 70);
        let isa = Isa::detect();
        let mut pool = KvPool::default();
        let mut slots: Vec<KvSlot> = (0..6).map(|_| KvSlot::default()).collect();
        for t in 0..90 {
            let rows = noise(6 * layout.qkv_width(), t + 1);
            let mut rope = vec![0.0; 6 * 16];
            for angles in rope.chunks_mut(16) {
                rope_table(u64::from(t), 16, 10_000.0, angles);
            }
            let mut alone: Vec<KvSlot> = slots
                .iter()
                .map(|slot| slot.copy(&layout, &mut pool))
                .collect();
            let mut run = |slots: &mut [KvSlot], rows: &[f32], rope: &[f32]| {
                let mut out = vec![0f32; slots.len() * layout.out_width()];
                let mut slots: Vec<&mut KvSlot> = slots.iter_mut().collect();
                for slot in &mut slots {
                    slot.prepare(&layout, &mut pool);
                }
                let job = KvAttention {
                    layout,
                    layer: 0,
                    qkv: rows,
                    rope,
                    out: &mut out,
                };
                attend_step(isa, job, &mut slots);
                out
            };
            let together = run(&mut slots, &rows, &rope);
            for (i, slot) in alone.iter_mut().enumerate() {
                let row = &rows[i * layout.qkv_width()..][..layout.qkv_width()];
                let one = run(std::slice::from_mut(slot), row, &rope[..16]);
                assert_eq!(
                    one,
                    together[i * layout.out_width()..][..layout.out_width()]
                );
            }
            slots.iter_mut().for_each(|slot| slot.pos += 1);
        }
    }
}

#[test]
fn a_window_of_one_more_is_seen() {
    let rows: Vec<_> = (0..100).map(|t| noise(3 * 16, t + 1)).collect();
    let isa = Isa::detect();
    let a = run(isa, &layout(KvFormat::F32, 1, 1, 16, 30), &rows);
    let b = run(isa, &layout(KvFormat::F32, 1, 1, 16, 31), &rows);
    assert_eq!(a[..30], b[..30]);
    assert!(a[30..].iter().zip(&b[30..]).all(|(a, b)| a != b));
}

#[test]
fn memory_grows_in_blocks_and_stops() {
    let layout = layout(KvFormat::Int8, 2, 1, 16, 200);
    let (mut pool, mut slot) = (KvPool::default(), KvSlot::default());
    assert_eq!(slot.bytes(&layout), 0);
    slot.skip(1, &layout, &mut pool);
    assert_eq!(slot.bytes(&layout), layout.block_bytes());
    slot.skip(10_000, &layout, &mut pool);
    assert_eq!(slot.bytes(&layout), 4 * layout.block_bytes());
    assert_eq!(layout.block_bytes(), 2 * 2 * (2 * 16 * 64 + 2 * 64 * 4));
}
