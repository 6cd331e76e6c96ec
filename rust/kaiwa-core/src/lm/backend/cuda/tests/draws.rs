//! Equal logits give equal tokens: the kernel's draws against `lm::sampling`.

use super::super::draw::sample;
use super::super::io::Draws;
use crate::cpu::Isa;
use crate::cuda::args::Pointer;
use crate::cuda::executor::Memory;
use crate::cuda::frame::Frame;
use crate::cuda::queue::Mode;
use crate::cuda::sim::Options;
use crate::cuda::sim_driver::SimExecutor;
use crate::lm::random::uniform;
use crate::lm::sampling::token;

/// How a row is drawn from.
#[derive(Debug, Clone)]
struct Row {
    logits: Vec<f32>,
    temperature: f32,
    top_k: usize,
    seed: u64,
    step: u64,
    forced: i32,
    slot: i32,
}

impl Row {
    fn settings(&self) -> (f32, usize, u64, u64) {
        (self.temperature, self.top_k, self.seed, self.step)
    }

    fn wanted(&self, draw: u64) -> (i32, bool) {
        let Self { logits, .. } = self;
        let finite = logits.iter().all(|v| v.is_finite());
        if self.slot < 0 {
            return (0, true);
        }
        if self.forced >= 0 {
            return (self.forced, finite);
        }
        let u = uniform(self.seed, self.step, draw);
        (
            token(Isa::detect(), logits, self.temperature, self.top_k, u),
            finite,
        )
    }
}

fn bytes<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

/// Token and flag of every row.
fn draw(rows: &[Row], number: u64, options: Options) -> Vec<(i32, bool)> {
    let executor = SimExecutor::new(usize::MAX, options, Mode::Eager).executor();
    let put = |data: Vec<u8>| Memory::of(&executor, &data).unwrap();
    let (count, vocabulary) = (rows.len(), rows[0].logits.len());
    let logits = put(bytes(
        rows.iter()
            .flat_map(|r| r.logits.iter().map(|v| v.to_le_bytes())),
    ));
    let slots = put(bytes(rows.iter().map(|r| r.slot.to_le_bytes())));
    let temperatures = put(bytes(rows.iter().map(|r| r.temperature.to_le_bytes())));
    let top_ks = put(bytes(rows.iter().map(|r| (r.top_k as i32).to_le_bytes())));
    let seeds = put(bytes(rows.iter().map(|r| r.seed.to_le_bytes())));
    let steps = put(bytes(rows.iter().map(|r| r.step.to_le_bytes())));
    let forced = put(bytes(rows.iter().map(|r| r.forced.to_le_bytes())));
    let finite = put(vec![0xff; 4 * count]);
    let tokens = put(vec![0xff; 4 * count]);
    let room = vocabulary.next_power_of_two();
    let sorted = [(); 2].map(|()| put(vec![0xff; 8 * count * room]));
    let draws = Draws {
        slots: slots.start(),
        temperatures: temperatures.start(),
        top_ks: top_ks.start(),
        seeds: seeds.start(),
        steps: steps.start(),
        forced: forced.start(),
        finite: finite.start(),
    };
    let node = sample(
        count,
        logits.start(),
        vocabulary,
        number as usize,
        draws,
        (tokens.start(), 1),
        (sorted[0].start(), sorted[1].start(), room),
    );
    let nothing = (Pointer(logits.start().0), 0);
    let frame = Frame {
        input: nothing,
        idle: Vec::new(),
        nodes: vec![node],
        output: (tokens.start(), 4 * count),
    };
    let mut made = vec![0; 4 * count];
    executor
        .prepare(frame)
        .unwrap()
        .run(&[], &mut made)
        .unwrap();
    let mut flags = vec![0; 4 * count];
    executor.read(finite.start(), &mut flags).unwrap();
    let ints = |bytes: &[u8]| -> Vec<i32> {
        let words = bytes.as_chunks::<4>().0;
        words.iter().map(|w| i32::from_le_bytes(*w)).collect()
    };
    let flags = ints(&flags).into_iter().map(|f| f != 0);
    ints(&made).into_iter().zip(flags).collect()
}

fn rows(vocabulary: usize, top_ks: &[usize], each: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, top_k) in top_ks.iter().enumerate() {
        for n in 0..each {
            let seed = 100 * i as u64 + n;
            // Coarse steps, so that many are equal.
            let coarse = if n % 3 == 0 { 4.0 } else { 4096.0 };
            let logits = (0..vocabulary as u64)
                .map(|v| {
                    ((uniform(seed, v, 7) * 30.0 - 15.0) * coarse).round() as f32 / coarse as f32
                })
                .collect();
            rows.push(Row {
                logits,
                temperature: [0.8, 0.0, 1.3, 0.05][n as usize % 4],
                top_k: *top_k,
                seed: seed * 0x1234_5678_9abc,
                step: n << (n % 40),
                forced: if n == 5 { 3 } else { -1 },
                slot: if n == 6 { -1 } else { 2 },
            });
        }
    }
    rows
}

#[test]
fn draws_are_those_of_the_processor() {
    // Candidates in shared memory, all of few, and so many that they are sorted outside it.
    for (vocabulary, top_ks, each) in [
        (64, vec![0, 1, 2, 5, 63, 64, 250], 16),
        (1, vec![0, 1, 4], 4),
        (2048, vec![0, 1, 250, 2047], 8),
        (5000, vec![0, 25, 250, 2048, 2049, 4999], 4),
    ] {
        let rows = rows(vocabulary, &top_ks, each);
        for options in [Options::FORWARD, Options::BACKWARD] {
            for number in [0, 8] {
                let made = draw(&rows, number, options);
                for (made, row) in made.iter().zip(&rows) {
                    // Draws after the first only take flags away, and there all were set.
                    let wanted = row.wanted(number);
                    assert_eq!(*made, wanted, "{vocabulary}: {:?}", row.settings());
                }
            }
        }
    }
}

/// Many places of many conversations.
#[test]
fn a_thousand_draws_are_those_of_the_processor() {
    let logits: Vec<f32> = (0..64).map(|v| (uniform(1, v, 1) * 8.0) as f32).collect();
    let rows: Vec<Row> = (0..1000)
        .map(|n| Row {
            logits: logits
                .iter()
                .map(|v| v + (n % 13) as f32 * v * 0.1)
                .collect(),
            temperature: 0.5 + 0.1 * (n % 11) as f32,
            top_k: 2 + n as usize % 63,
            seed: n * n,
            step: 7 * n,
            forced: -1,
            slot: 0,
        })
        .collect();
    for (made, row) in draw(&rows, 0, Options::FORWARD).iter().zip(&rows) {
        assert_eq!(*made, row.wanted(0));
    }
}

#[test]
fn logits_that_are_none_are_told_and_give_a_token() {
    let mut all = rows(64, &[0, 5, 63], 4);
    for (i, row) in all.iter_mut().enumerate() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
        if i % 2 == 0 {
            row.logits.fill(bad);
        } else {
            row.logits[i * 5] = bad;
        }
    }
    for (token, finite) in draw(&all, 0, Options::FORWARD) {
        assert!(!finite && (0..64).contains(&token), "{token}");
    }
}
