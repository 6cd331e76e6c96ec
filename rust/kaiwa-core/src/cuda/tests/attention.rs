//! Attention over rings against f64: positions, wrapped rings, scattered slots, neighbours.

use half::bf16;

use super::super::args::{AttentionArgs, RotationArgs};
use super::super::attention::{kernel, partial_floats, score_scale, shape, splits};
use super::super::sim::{Met, Options, Shape};
use super::{at, at_mut, noise, run};
use crate::formats::KvFormat;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    format: KvFormat,
    dim: usize,
    heads: usize,
    kv_heads: usize,
    context: usize,
    split: usize,
    halves: bool,
}

/// Rings of some slots: bytes of keys and values, and their scales.
#[derive(Clone, PartialEq)]
struct Rings {
    keys: Vec<u8>,
    values: Vec<u8>,
    key_scales: Vec<u32>,
    value_scales: Vec<u32>,
}

/// What rows are made of.
struct Rows {
    slots: Vec<i32>,
    positions: Vec<i64>,
    qkv: Vec<f32>,
}

const SLOTS: usize = 9;

impl Sizes {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Rings in which every column that a slot at `position` has used holds something, and every
    /// other is no number.
    fn rings(&self, position: impl Fn(usize) -> i64) -> Rings {
        let columns = SLOTS * self.kv_heads * self.context;
        let mut made = [1, 2].map(|seed| {
            let numbers = noise(seed, columns * self.dim);
            let used = |i: usize| {
                let column = i / self.dim % self.context;
                let slot = i / self.dim / self.context / self.kv_heads;
                (column as i64) < position(slot)
            };
            let number = |(i, v): (usize, &f32)| -> Vec<u8> {
                let v = if used(i) { *v } else { f32::NAN };
                match self.format {
                    KvFormat::F32 => v.to_le_bytes().to_vec(),
                    KvFormat::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
                    KvFormat::Int8 => vec![(v * 127.0) as i8 as u8],
                }
            };
            let bytes: Vec<u8> = numbers.iter().enumerate().flat_map(number).collect();
            let scales = noise(seed + 10, columns)
                .into_iter()
                .enumerate()
                .map(|(i, v)| {
                    let used = used(i * self.dim);
                    (if used {
                        0.01 + v.abs() / 100.0
                    } else {
                        f32::NAN
                    })
                    .to_bits()
                });
            (bytes, scales.collect::<Vec<u32>>())
        });
        let [(keys, key_scales), (values, value_scales)] = &mut made;
        Rings {
            keys: std::mem::take(keys),
            values: std::mem::take(values),
            key_scales: std::mem::take(key_scales),
            value_scales: std::mem::take(value_scales),
        }
    }

    fn speeds(&self) -> Vec<f64> {
        let pairs = self.dim / 2;
        let speed = |i| 10000f64.powf(-(i as f64) / pairs as f64);
        (0..pairs).map(speed).collect()
    }

    fn rotation(&self, positions: &[i64]) -> Vec<f32> {
        let mut out = vec![f32::NAN; positions.len() * self.dim];
        let speeds = self.speeds();
        let args = RotationArgs {
            positions: at(positions),
            speeds: at(&speeds),
            out: at_mut(&mut out),
            pairs: (self.dim / 2) as i32,
            padding: 0,
        };
        let shape = Shape {
            grid: [positions.len() as u32, 1, 1],
            block: 64,
            shared: 0,
        };
        run("kaiwa_rotation", shape, &args, Options::FORWARD);
        out
    }

    fn run(&self, rows: &Rows, rings: &mut Rings, options: Options) -> (Vec<f32>, Met) {
        let count = rows.slots.len();
        let rotation = self.rotation(&rows.positions);
        let mut out = vec![f32::NAN; count * self.heads * self.dim];
        let floats = partial_floats(self.context, self.split, self.heads, self.dim, count);
        let mut partial = vec![f32::NAN; floats];
        let mut counters = vec![0i32; count * self.kv_heads];
        let args = AttentionArgs {
            qkv: at(&rows.qkv),
            rotation: at(&rotation),
            slots: at(&rows.slots),
            positions: at(&rows.positions),
            keys: at_mut(&mut rings.keys),
            values: at_mut(&mut rings.values),
            key_scales: at_mut(&mut rings.key_scales),
            value_scales: at_mut(&mut rings.value_scales),
            out: at_mut(&mut out),
            partial: at_mut(&mut partial),
            counters: at_mut(&mut counters),
            heads: self.heads as i32,
            kv_heads: self.kv_heads as i32,
            context: self.context as i32,
            split: self.split as i32,
            splits: splits(self.context, self.split) as i32,
            halves: self.halves.into(),
            score_scale: score_scale(self.dim),
            padding: 0,
        };
        let name = kernel(self.format, self.dim).unwrap();
        let shape = shape(self.context, self.split, self.kv_heads, count);
        let met = run(name, shape, &args, options);
        assert!(counters.iter().all(|c| *c == 0));
        (out, met)
    }

    /// Numbers of one column of a ring.
    fn column(
        &self,
        bytes: &[u8],
        scales: &[u32],
        slot: usize,
        kv: usize,
        column: usize,
    ) -> Vec<f64> {
        let place = (slot * self.kv_heads + kv) * self.context + column;
        let scale = f64::from(f32::from_bits(scales[place]));
        let numbers = place * self.dim..(place + 1) * self.dim;
        let number = |i: usize| match self.format {
            KvFormat::F32 => f64::from(f32::from_le_bytes(bytes[4 * i..][..4].try_into().unwrap())),
            KvFormat::Bf16 => f64::from(bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
            KvFormat::Int8 => scale * f64::from(bytes[i] as i8),
        };
        numbers.map(number).collect()
    }

    fn turned(&self, x: &[f32], position: i64) -> Vec<f64> {
        let mut out: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        for (i, speed) in self.speeds().iter().enumerate() {
            let (one, two) = match self.halves {
                true => (i, i + self.dim / 2),
                false => (2 * i, 2 * i + 1),
            };
            let (sin, cos) = (position as f64 * speed).sin_cos();
            let (a, b) = (out[one], out[two]);
            (out[one], out[two]) = (a * cos - b * sin, a * sin + b * cos);
        }
        out
    }

    /// Outputs of row `r`, of the rings as the kernel left them.
    fn reference(&self, rows: &Rows, r: usize, rings: &Rings) -> Vec<f64> {
        let (slot, position) = (rows.slots[r] as usize, rows.positions[r]);
        let all = &rows.qkv[r * self.width()..][..self.width()];
        let count = (position + 1).min(self.context as i64) as usize;
        let mut out = Vec::new();
        for head in 0..self.heads {
            let kv = head / (self.heads / self.kv_heads);
            let query = self.turned(&all[head * self.dim..][..self.dim], position);
            let score = |column| {
                let key = self.column(&rings.keys, &rings.key_scales, slot, kv, column);
                let dot: f64 = key.iter().zip(&query).map(|(k, q)| k * q).sum();
                dot / (self.dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..count).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            let mut sums = vec![0.0; self.dim];
            for (column, score) in scores.iter().enumerate() {
                let value = self.column(&rings.values, &rings.value_scales, slot, kv, column);
                let weight = (score - most).exp() / total;
                sums.iter_mut()
                    .zip(value)
                    .for_each(|(s, v)| *s += weight * v);
            }
            out.extend(sums);
        }
        out
    }

    /// The largest error of all rows that are any.
    fn off(&self, rows: &Rows, rings: &Rings, out: &[f32]) -> f64 {
        let width = self.heads * self.dim;
        let mut most = 0f64;
        for (r, out) in out.chunks(width).enumerate() {
            if rows.slots[r] < 0 {
                assert!(out.iter().all(|v| *v == 0.0));
                continue;
            }
            for (wanted, got) in self.reference(rows, r, rings).iter().zip(out) {
                let off = (wanted - f64::from(*got)).abs();
                most = if off.is_nan() {
                    f64::INFINITY
                } else {
                    most.max(off)
                };
            }
        }
        most
    }
}

fn rows(sizes: &Sizes, slots: &[i32], positions: &[i64]) -> Rows {
    Rows {
        slots: slots.to_vec(),
        positions: positions.to_vec(),
        qkv: noise(77, slots.len() * sizes.width())
            .iter()
            .map(|v| 2.0 * v)
            .collect(),
    }
}

/// Positions of the slots: a fresh one, one that fills its ring, some that went round.
fn position(sizes: &Sizes, slot: usize) -> i64 {
    let context = sizes.context as i64;
    [
        0,
        context - 1,
        3,
        context,
        5 * context + 2,
        1,
        86_400 * 13,
        2,
        context + 1,
    ][slot]
}

const SCATTERED: [i32; 8] = [7, 2, -1, 0, 4, 8, 1, 6];

fn all_sizes() -> Vec<Sizes> {
    let mut all = Vec::new();
    for format in KvFormat::ALL {
        for (dim, heads, kv_heads, context, split, halves) in [
            (8, 4, 4, 12, 5, false),
            (16, 4, 4, 12, 256, false),
            (16, 4, 2, 14, 4, true),
            (32, 2, 1, 40, 16, true),
            (64, 2, 2, 70, 32, false),
            (128, 1, 1, 150, 64, false),
        ] {
            all.push(Sizes {
                format,
                dim,
                heads,
                kv_heads,
                context,
                split,
                halves,
            });
        }
    }
    all
}

#[test]
fn attention_is_that_of_f64_whatever_the_slots_and_positions() {
    for sizes in all_sizes() {
        let at_slot = |slot| position(&sizes, slot);
        let positions = SCATTERED.map(|slot| if slot < 0 { 0 } else { at_slot(slot as usize) });
        let rows = rows(&sizes, &SCATTERED, &positions);
        let before = sizes.rings(at_slot);
        let mut rings = before.clone();
        let (out, _) = sizes.run(&rows, &mut rings, Options::FORWARD);
        let off = sizes.off(&rows, &rings, &out);
        assert!(off < 2e-5, "{sizes:?}: off by {off:e}");

        // The step's own keys and values are in their columns, to the nearest there is.
        let mut expected = before.clone();
        for (r, slot) in SCATTERED.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let (slot, own) = (*slot as usize, positions[r] as usize % sizes.context);
            let all = &rows.qkv[r * sizes.width()..][..sizes.width()];
            for kv in 0..sizes.kv_heads {
                let key = &all[(sizes.heads + kv) * sizes.dim..][..sizes.dim];
                let value = &all[(sizes.heads + sizes.kv_heads + kv) * sizes.dim..][..sizes.dim];
                let value: Vec<f64> = value.iter().map(|v| f64::from(*v)).collect();
                let held = [
                    (
                        sizes.turned(key, positions[r]),
                        &rings.keys,
                        &rings.key_scales,
                    ),
                    (value, &rings.values, &rings.value_scales),
                ];
                for (wanted, bytes, scales) in held {
                    let most = wanted.iter().fold(0f64, |a, v| a.max(v.abs()));
                    let got = sizes.column(bytes, scales, slot, kv, own);
                    for (wanted, got) in wanted.iter().zip(got) {
                        let room = match sizes.format {
                            KvFormat::F32 => 1e-6,
                            KvFormat::Bf16 => 1e-6 + wanted.abs() / 256.0,
                            KvFormat::Int8 => 1e-6 + most / 254.0,
                        };
                        assert!((wanted - got).abs() <= room, "{sizes:?} {wanted} {got}");
                    }
                }
                // Copied, so that what else was written shows.
                let place = (slot * sizes.kv_heads + kv) * sizes.context + own;
                let bytes = place * sizes.dim * sizes.format.bytes();
                let bytes = bytes..bytes + sizes.dim * sizes.format.bytes();
                expected.keys[bytes.clone()].copy_from_slice(&rings.keys[bytes.clone()]);
                expected.values[bytes.clone()].copy_from_slice(&rings.values[bytes]);
                expected.key_scales[place] = rings.key_scales[place];
                expected.value_scales[place] = rings.value_scales[place];
            }
        }
        assert!(expected == rings, "{sizes:?} wrote elsewhere");

        let mut again = before.clone();
        let (back, _) = sizes.run(&rows, &mut again, Options::BACKWARD);
        assert!(back == out && again == rings, "{sizes:?}: order matters");
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    for sizes in all_sizes() {
        let at_slot = |slot| position(&sizes, slot);
        let positions = SCATTERED.map(|slot| if slot < 0 { 0 } else { at_slot(slot as usize) });
        let rows = rows(&sizes, &SCATTERED, &positions);
        let before = sizes.rings(at_slot);
        let (out, _) = sizes.run(&rows, &mut before.clone(), Options::FORWARD);
        let width = sizes.heads * sizes.dim;
        for r in [0, 4, 7] {
            let alone = Rows {
                slots: vec![rows.slots[r]],
                positions: vec![positions[r]],
                qkv: rows.qkv[r * sizes.width()..][..sizes.width()].to_vec(),
            };
            let (alone, _) = sizes.run(&alone, &mut before.clone(), Options::FORWARD);
            assert_eq!(alone, out[r * width..][..width], "{sizes:?} {r}");
        }
    }
}

#[test]
fn numbers_that_are_none_stay_so() {
    for sizes in all_sizes() {
        let rings = sizes.rings(|_| 3);
        // The query, the key, the value. (A key of infinities may rightly weigh nothing.)
        let value = sizes.heads + sizes.kv_heads;
        let nan = f32::NAN;
        for (place, none) in [
            (0, nan),
            (sizes.heads, nan),
            (value, nan),
            (value, f32::INFINITY),
        ] {
            let mut rows = rows(&sizes, &[1, 2], &[3, 3]);
            rows.qkv[place * sizes.dim + 1] = none;
            let (out, _) = sizes.run(&rows, &mut rings.clone(), Options::FORWARD);
            let (bad, good) = out.split_at(sizes.heads * sizes.dim);
            assert!(
                bad.iter().any(|v| !v.is_finite()),
                "{sizes:?} {place} {none}"
            );
            assert!(
                good.iter().all(|v| v.is_finite()),
                "{sizes:?} {place} {none}"
            );
        }
    }
}

/// Controls: a neighbour's slot and missing barriers can be seen.
#[test]
fn a_neighbours_slot_and_a_missing_barrier_show() {
    for sizes in all_sizes() {
        let context = sizes.context as i64;
        let slots = [3, 5];
        let rows = rows(&sizes, &slots, &[context + 3, context - 2]);
        let before = sizes.rings(|_| 2 * context);
        let mut rings = before.clone();
        let (out, met) = sizes.run(&rows, &mut rings, Options::FORWARD);
        assert!(sizes.off(&rows, &rings, &out) < 2e-5);
        let neighbours = Rows {
            slots: slots.map(|slot| slot + 1).to_vec(),
            positions: rows.positions.clone(),
            qkv: rows.qkv.clone(),
        };
        let (wrong, _) = sizes.run(&neighbours, &mut before.clone(), Options::FORWARD);
        assert!(sizes.off(&rows, &rings, &wrong) > 1e-3, "{sizes:?}");

        // Fresh numbers, the query, the parts; blocks without fresh numbers meet one less.
        let repeat = (sizes.heads / sizes.kv_heads) as i32;
        let several = i32::from(sizes.context > sizes.split);
        assert_eq!(
            met.block_barriers,
            1 + 2 * repeat + 2 * several,
            "{sizes:?}"
        );
        for barrier in 0..3 {
            let shows = [Options::FORWARD, Options::BACKWARD].iter().any(|order| {
                let options = Options {
                    skip_block_barrier: barrier,
                    ..*order
                };
                let mut other = before.clone();
                sizes.run(&rows, &mut other, options).0 != out || other != rings
            });
            assert!(shows, "{sizes:?} {barrier}");
        }
    }
}

#[test]
fn rotations_are_those_of_f64_after_days() {
    let sizes = Sizes {
        format: KvFormat::F32,
        dim: 64,
        heads: 1,
        kv_heads: 1,
        context: 8,
        split: 8,
        halves: false,
    };
    let positions = [0, 1, 3000, 13 * 86_400 * 30];
    let out = sizes.rotation(&positions);
    for (position, out) in positions.iter().zip(out.chunks(64)) {
        for (i, speed) in sizes.speeds().iter().enumerate() {
            let (sin, cos) = (*position as f64 * speed).sin_cos();
            assert!((f64::from(out[i]) - cos).abs() < 1e-7);
            assert!((f64::from(out[32 + i]) - sin).abs() < 1e-7);
        }
    }
}
