//! Products against f64, and that a row's bits depend on that row alone.

use super::super::args::{Pointer, ProductArgs};
use super::super::product::{
    EPILOGUE_GELU, EPILOGUE_SILU_GATE, EPILOGUE_STORE, Packed, Pairing, pack_raw, random_rows,
};
use super::super::sim::{Met, Options};
use super::{at, at_mut, noise, try_run};
use crate::checkpoint::encoding::decode_row;
use crate::checkpoint::{Encoding, RawRows};

unsafe extern "C" {
    /// `cuda/product.cu`: see `cuda/mma.h`.
    fn kaiwa_sim_wrong_mma_lane(lane: i32);
}

/// A matrix in a form, packed and as numbers.
struct Matrix {
    packed: Packed,
    pairing: Pairing,
    rows: usize,
    cols: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(encoding: Encoding, rows: usize, cols: usize, pairing: Pairing) -> Self {
        let raw = random_rows(encoding, rows, cols, 11);
        Self {
            packed: pack_raw(encoding, rows, cols, &raw, pairing).unwrap(),
            pairing,
            rows,
            cols,
            values: numbers(encoding, rows, cols, &raw),
        }
    }

    /// The same with its inputs cut into parts.
    fn cut(mut self, splits: usize) -> Self {
        self.packed.shape = self.packed.shape.cut(splits);
        self
    }

    fn outputs(&self) -> usize {
        self.packed.shape.n
    }

    fn run(&self, call: &Call<'_>, options: Options) -> Vec<f32> {
        self.try_run(call, options).unwrap().0
    }

    /// Outputs, with what the launch met.
    fn try_run(&self, call: &Call<'_>, options: Options) -> Result<(Vec<f32>, Met), String> {
        let shape = self.packed.shape;
        let rows = call.x.len() / self.cols;
        let (name, size) = shape.launch(rows);
        let count = rows * self.outputs();
        // Behind the outputs, and behind what is added up, lies what must stay as it is.
        let mut out = vec![GUARD; count + 64];
        if let Some(residual) = call.residual {
            out[..count].copy_from_slice(residual);
        }
        let mut partial = vec![GUARD; shape.partial_floats(rows) + 64];
        let mut counters = vec![0i32; shape.counters(rows) + 1];
        let row_scales = &self.packed.row_scales;
        let args = ProductArgs {
            weights: at(&self.packed.bytes),
            row_scales: if row_scales.is_empty() {
                Pointer::NULL
            } else {
                at(row_scales)
            },
            x: at(call.x),
            residual: match call.residual {
                Some(_) => at(&out),
                None => Pointer::NULL,
            },
            scale: call.scale.map_or(Pointer::NULL, at),
            out: at_mut(&mut out),
            partial: at_mut(&mut partial),
            counters: at_mut(&mut counters),
            rows: rows as i32,
            k: shape.k as i32,
            n: shape.n as i32,
            tiles: shape.tiles as i32,
            units: shape.units as i32,
            splits: shape.splits as i32,
            epilogue: call.epilogue,
            padding: 0,
        };
        let met = try_run(name, size, &args, options)?;
        assert!(counters.iter().all(|c| *c == 0));
        assert!(out[count..].iter().all(|v| *v == GUARD));
        let used = shape.partial_floats(rows);
        assert!(partial[used..].iter().all(|v| *v == GUARD));
        out.truncate(count);
        Ok((out, met))
    }

    /// Sums of row `x`, each with the sum of its terms' magnitudes.
    fn sums(&self, x: &[f32]) -> Vec<(f64, f64)> {
        let row = |w: &[f64]| {
            let terms = w.iter().zip(x).map(|(w, x)| w * f64::from(*x));
            terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
        };
        self.values.chunks(self.cols).map(row).collect()
    }
}

/// What lies behind what may be written.
const GUARD: f32 = 12345.5;

/// What a product is given beside its matrix.
struct Call<'a> {
    x: &'a [f32],
    epilogue: i32,
    residual: Option<&'a [f32]>,
    scale: Option<&'a [f32]>,
}

impl<'a> Call<'a> {
    fn plain(x: &'a [f32]) -> Self {
        Self {
            x,
            epilogue: EPILOGUE_STORE,
            residual: None,
            scale: None,
        }
    }
}

fn numbers(encoding: Encoding, rows: usize, cols: usize, raw: &RawRows) -> Vec<f64> {
    let mut row = vec![0.0; cols];
    let mut values = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        decode_row(encoding, cols, raw, rows, r, &mut row);
        values.extend(row.iter().map(|v| f64::from(*v)));
    }
    values
}

/// Every encoding that has kernels, with numbers of inputs that fill no unit, and that do.
const MATRICES: [(Encoding, usize, usize); 13] = [
    (Encoding::F32, 48, 42),
    (Encoding::F32, 64, 96),
    (Encoding::Bf16, 56, 84),
    (Encoding::Bf16, 128, 352),
    (Encoding::Int8Rows, 40, 70),
    (Encoding::Q8_0, 72, 352),
    (Encoding::Q4_0, 72, 352),
    (Encoding::Q4_1, 64, 160),
    (Encoding::Affine { bits: 8, group: 32 }, 48, 96),
    (Encoding::Affine { bits: 8, group: 64 }, 48, 320),
    (
        Encoding::Affine {
            bits: 8,
            group: 128,
        },
        48,
        256,
    ),
    (Encoding::Affine { bits: 4, group: 32 }, 48, 352),
    (Encoding::Affine { bits: 4, group: 64 }, 40, 192),
];

/// Activations as they come: some large, some small.
fn activations(rows: usize, cols: usize) -> Vec<f32> {
    let mut x = noise(5, rows * cols);
    for (i, v) in x.iter_mut().enumerate() {
        *v *= [1.0, 0.01, 30.0, 1.0, 1e-4][i % 5];
    }
    x
}

/// Part of the sum of magnitudes that 16 binary digits of either factor may be off.
fn tolerance(encoding: Encoding) -> f64 {
    match encoding {
        Encoding::F32 => 2.0 / 65536.0,
        _ => 1.0 / 65536.0,
    }
}

fn check(matrix: &Matrix, x: &[f32], out: &[f32], tolerance: f64) -> Result<(), String> {
    let n = matrix.outputs();
    for (r, (x, out)) in x.chunks(matrix.cols).zip(out.chunks(n)).enumerate() {
        for (i, ((wanted, size), got)) in matrix.sums(x).iter().zip(out).enumerate() {
            let off = (f64::from(*got) - wanted).abs();
            if off.is_nan() || off > tolerance * size {
                return Err(format!(
                    "row {r} output {i}: {got} for {wanted}, off by {off:e}"
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn products_are_those_of_f64_for_every_form() {
    for (encoding, rows, cols) in MATRICES {
        let matrix = Matrix::new(encoding, rows, cols, Pairing::Plain);
        for batch in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17] {
            let x = activations(batch, cols);
            let out = matrix.run(&Call::plain(&x), Options::FORWARD);
            check(&matrix, &x, &out, tolerance(encoding))
                .unwrap_or_else(|e| panic!("{encoding:?} {batch} rows: {e}"));
            if batch % 8 == 1 {
                let back = matrix.run(&Call::plain(&x), Options::BACKWARD);
                assert_eq!(back, out, "{encoding:?}");
            }
        }
    }
}

/// As many inputs as the 7B model's matrices have, in as many parts.
#[test]
fn long_sums_stay_exact() {
    for (encoding, cols, splits) in [
        (Encoding::Bf16, 11264, 4),
        (Encoding::Q8_0, 4096, 4),
        (Encoding::Affine { bits: 4, group: 32 }, 4096, 2),
    ] {
        let matrix = Matrix::new(encoding, 32, cols, Pairing::Plain).cut(splits);
        let x = activations(2, cols);
        let out = matrix.run(&Call::plain(&x), Options::FORWARD);
        // Errors of single terms are of either sign, so they add up to far less than they could.
        check(&matrix, &x, &out, 0.05 * tolerance(encoding)).unwrap();
    }
}

#[test]
fn strips_of_four_tiles_and_several_parts_give_the_same_sums() {
    for (encoding, rows, cols) in MATRICES {
        if encoding == Encoding::F32 {
            continue;
        }
        let mut wide = Matrix::new(encoding, rows, cols, Pairing::Plain);
        let x = activations(17, cols);
        let narrow = wide.run(&Call::plain(&x), Options::FORWARD);
        wide.packed = widened(encoding, rows, cols, Pairing::Plain);
        assert_eq!(wide.packed.shape.strip, 4);
        for batch in [3, 17] {
            let x = &x[..batch * cols];
            let out = wide.run(&Call::plain(x), Options::FORWARD);
            assert_eq!(out, narrow[..out.len()], "{encoding:?}");
        }
        for splits in [2, 3] {
            wide = wide.cut(splits);
            let (all, _) = wide.try_run(&Call::plain(&x), Options::FORWARD).unwrap();
            check(&wide, &x, &all, tolerance(encoding)).unwrap();
            for batch in [1, 8, 9] {
                let x = &x[..batch * cols];
                let out = wide.run(&Call::plain(x), Options::BACKWARD);
                assert_eq!(out, all[..out.len()], "{encoding:?} {splits}");
            }
        }
    }
}

/// Packed as large matrices are.
fn widened(encoding: Encoding, rows: usize, cols: usize, pairing: Pairing) -> Packed {
    let raw = random_rows(encoding, rows, cols, 11);
    let narrow = pack_raw(encoding, rows, cols, &raw, pairing).unwrap();
    narrow.widened()
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_and_place() {
    for (encoding, rows, cols) in MATRICES {
        let matrix = Matrix::new(encoding, rows, cols, Pairing::Plain);
        let n = matrix.outputs();
        let x = activations(17, cols);
        let all = matrix.run(&Call::plain(&x), Options::FORWARD);
        for row in [0, 6, 16] {
            let x = &x[row * cols..][..cols];
            let alone = matrix.run(&Call::plain(x), Options::FORWARD);
            assert_eq!(alone, all[row * n..][..n], "{encoding:?} row {row}");
        }
        // Rows that fill up a batch may hold anything.
        let mut eight = x[..8 * cols].to_vec();
        eight[3 * cols..].fill(f32::NAN);
        let out = matrix.run(&Call::plain(&eight), Options::FORWARD);
        assert_eq!(out[..3 * n], all[..3 * n], "{encoding:?}");
        assert!(out[3 * n..].iter().all(|v| v.is_nan()), "{encoding:?}");
    }
}

#[test]
fn epilogues_do_what_they_say() {
    let (n, cols) = (42, 64);
    let erf = |x: f64| {
        // By its series: enough for numbers below 4.
        let mut term = x;
        let mut sum = x;
        for i in 1..80 {
            term *= -x * x / f64::from(i);
            sum += term / f64::from(2 * i + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    };
    for batch in [3, 9] {
        let x: Vec<f32> = noise(3, batch * cols);
        let plain = Matrix::new(Encoding::Bf16, n, cols, Pairing::Plain);
        let (residual, scale) = (noise(8, batch * n), noise(9, n));
        let call = Call {
            residual: Some(&residual),
            scale: Some(&scale),
            ..Call::plain(&x)
        };
        let sums = |matrix: &Matrix| -> Vec<f64> {
            let rows = x.chunks(cols);
            rows.flat_map(|x| matrix.sums(x))
                .map(|(sum, _)| sum)
                .collect()
        };
        let out = plain.run(&call, Options::FORWARD);
        for (i, (sum, got)) in sums(&plain).iter().zip(&out).enumerate() {
            let wanted = sum * f64::from(scale[i % n]) + f64::from(residual[i]);
            assert!((wanted - f64::from(*got)).abs() < 1e-5);
        }
        let call = Call {
            epilogue: EPILOGUE_GELU,
            ..Call::plain(&x)
        };
        let out = plain.run(&call, Options::FORWARD);
        for (sum, got) in sums(&plain).iter().zip(&out) {
            let wanted = 0.5 * sum * (1.0 + erf(sum / std::f64::consts::SQRT_2));
            assert!((wanted - f64::from(*got)).abs() < 1e-5, "{wanted} {got}");
        }
        let mut gated = Matrix::new(Encoding::Bf16, 2 * n, cols, Pairing::GateUp);
        assert_eq!((gated.rows, gated.pairing), (2 * n, Pairing::GateUp));
        let call = Call {
            epilogue: EPILOGUE_SILU_GATE,
            ..Call::plain(&x)
        };
        for strip in [2, 4] {
            if strip == 4 {
                gated.packed = widened(Encoding::Bf16, 2 * n, cols, Pairing::GateUp);
            }
            let out = gated.run(&call, Options::FORWARD);
            for (both, out) in sums(&gated).chunks(2 * n).zip(out.chunks(n)) {
                for ((gate, up), got) in both[..n].iter().zip(&both[n..]).zip(out) {
                    let wanted = gate / (1.0 + (-gate).exp()) * up;
                    assert!((wanted - f64::from(*got)).abs() < 1e-5, "{wanted} {got}");
                }
            }
        }
    }
}

/// Controls: the tests above can see a wrong fragment and a missing barrier.
#[test]
fn a_wrong_lane_and_a_missing_barrier_show() {
    let encoding = Encoding::Q4_0;
    let matrix = Matrix::new(encoding, 48, 384, Pairing::Plain);
    let x = activations(17, 384);
    for lane in [0, 13, 31] {
        unsafe { kaiwa_sim_wrong_mma_lane(lane) };
        let out = matrix.run(&Call::plain(&x), Options::FORWARD);
        unsafe { kaiwa_sim_wrong_mma_lane(-1) };
        check(&matrix, &x, &out, tolerance(encoding)).unwrap_err();
    }
    // The first warp has two units, the others one.
    let matrix = Matrix::new(encoding, 48, 320, Pairing::Plain);
    let x = activations(3, 320);
    let (out, met) = matrix.try_run(&Call::plain(&x), Options::FORWARD).unwrap();
    check(&matrix, &x, &out, tolerance(encoding)).unwrap();
    assert_eq!(met.block_barriers, 2);
    for barrier in 0..2 {
        let options = Options {
            skip_block_barrier: barrier,
            ..Options::FORWARD
        };
        assert_ne!(matrix.run(&Call::plain(&x), options), out, "{barrier}");
    }
    // With several parts: who is last must be known to all before they go on.
    let matrix = matrix.cut(2);
    let residual = noise(8, 3 * 48);
    let call = Call {
        residual: Some(&residual),
        ..Call::plain(&x)
    };
    let (out, met) = matrix.try_run(&call, Options::BACKWARD).unwrap();
    assert_eq!(met.block_barriers, 4);
    let options = Options {
        skip_block_barrier: 3,
        ..Options::BACKWARD
    };
    assert_ne!(matrix.run(&call, options), out);
}

#[test]
fn what_does_not_fit_is_refused() {
    let matrix = Matrix::new(Encoding::Bf16, 16, 32, Pairing::Plain);
    let x = activations(3, 32);
    let (name, mut size) = matrix.packed.shape.launch(3);
    size.shared -= 16;
    let mut out = [0f32; 48];
    let args = ProductArgs {
        weights: at(&matrix.packed.bytes),
        row_scales: Pointer::NULL,
        x: at(&x),
        residual: Pointer::NULL,
        scale: Pointer::NULL,
        out: at_mut(&mut out),
        partial: Pointer::NULL,
        counters: Pointer::NULL,
        rows: 3,
        k: 32,
        n: 16,
        tiles: 2,
        units: 1,
        splits: 1,
        epilogue: EPILOGUE_STORE,
        padding: 0,
    };
    let error = try_run(name, size, &args, Options::FORWARD).unwrap_err();
    assert!(error.contains("dynamic shared memory"), "{error}");
}
