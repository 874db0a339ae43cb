//! The low-rank linear: fused, unfused, the frozen linear alone, and that one by cuBLASLt.
//!
//! Throughput counts necessary operations only (see `benches/lora.rs`). A pass is put on the stream several times between
//! two waits, so that what is measured is the GPU and not the way to it. Every operand is random: zeros take less power
//! and time. Sampled elements of every result are compared with f64 sums on the host before anything is timed. x, y and
//! their gradients are f32 here; cuBLASLt's are bf16 where W is.

use lowrank_core::{DType, Device, Precision, Tensor, no_grad, philox};

use crate::peaks::Peaks;
use crate::{Outcome, Setup, rival, values};

/// (m, k, n, r): a prompt, a wide layer, a large square one, and two of decoding.
const SHAPES: [[usize; 4]; 5] = [
    [8192, 4096, 4096, 16],
    [8192, 4096, 11008, 64],
    [2048, 8192, 8192, 16],
    [16, 4096, 4096, 16],
    [1, 4096, 14336, 64],
];
const TINY: [[usize; 4]; 2] = [[70, 64, 136, 5], [1, 128, 96, 4]];
/// Elements of each result that are compared with the host's.
const SAMPLES: u32 = 64;
const SCALE: f64 = 2.0;

/// What W is stored as, how products are computed, and what that rounds operands to, relatively.
const MODES: [(DType, Precision, f64); 4] = [
    (DType::F32, Precision::Full, 1.0 / (1 << 24) as f64),
    (DType::BF16, Precision::Full, 1.0 / (1 << 24) as f64),
    (DType::F32, Precision::Tf32, 1.0 / (1 << 11) as f64),
    (DType::BF16, Precision::Bf16, 1.0 / (1 << 8) as f64),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fused,
    Unfused,
    Frozen,
}

/// The operands on the host and on the device.
struct Operands {
    sizes: [usize; 4],
    host: [Vec<f32>; 5],
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    gy: Tensor,
}

impl Operands {
    fn new(sizes: [usize; 4], dtype: DType, device: &Device) -> Outcome<Self> {
        let [m, k, n, r] = sizes;
        let shapes = [[m, k], [n, k], [r, k], [n, r], [m, n]];
        let dtypes = [DType::F32, dtype, DType::F32, DType::F32, DType::F32];
        let host: [Vec<f32>; 5] = std::array::from_fn(|i| values(&shapes[i], i as u32, dtypes[i]));
        let on = |i: usize| Tensor::from_slice(&host[i], &shapes[i], device);
        let w = if dtype == DType::F32 { on(1)? } else { on(1)?.cast(dtype)? };
        let (x, a, b, gy) = (on(0)?.trainable()?, on(2)?.trainable()?, on(3)?.trainable()?, on(4)?);
        Ok(Operands { sizes, host, x, w, a, b, gy })
    }

    fn forward(&self, kind: Kind) -> Outcome<Tensor> {
        Ok(match kind {
            Kind::Frozen => self.x.linear(&self.w, None)?,
            _ => self.x.lora_linear(&self.w, None, &self.a, &self.b, SCALE, 0.0)?,
        })
    }

    fn pass(&self, kind: Kind, backward: bool) -> Outcome {
        if !backward {
            return no_grad(|| self.forward(kind)).map(drop);
        }
        [&self.x, &self.a, &self.b].into_iter().for_each(Tensor::zero_grad);
        Ok(self.forward(kind)?.backward_with(self.gy.clone())?)
    }

    /// The largest error of sampled elements of y, dx, da and db, in units of that rounding of the sum of magnitudes.
    fn worst(&self, rounding: f64) -> Outcome<f64> {
        let [m, k, n, r] = self.sizes;
        let [x, w, a, b, gy] = &self.host;
        self.pass(Kind::Fused, true)?;
        let y = no_grad(|| self.forward(Kind::Fused))?.to_vec::<f32>()?;
        let grad = |t: &Tensor| t.grad().ok_or("a gradient is missing").map(|g| g.to_vec::<f32>());
        let (dx, da, db) = (grad(&self.x)??, grad(&self.a)??, grad(&self.b)??);
        let mut rng = philox::Rng::new(2, 0);
        let mut worst = 0.0f64;
        // (Σ, Σ|·|) of products.
        let dot = |len: usize, f: &dyn Fn(usize) -> f64| {
            (0..len).map(f).fold((0.0, 0.0), |(s, t), v: f64| (s + v, t + v.abs()))
        };
        let at = |v: &[f32], i: usize, j: usize, width: usize| f64::from(v[i * width + j]);
        let h = |i: usize, q: usize| dot(k, &|l| at(x, i, l, k) * at(a, q, l, k));
        let u = |i: usize, q: usize| dot(n, &|j| SCALE * at(gy, i, j, n) * at(b, j, q, r));
        // A product with a sum that was itself rounded: both magnitudes count.
        let twice = |len: usize, sum: &dyn Fn(usize) -> (f64, f64), other: &dyn Fn(usize) -> f64| {
            (0..len).fold((0.0, 0.0), |(s, t), i| {
                let ((value, size), o) = (sum(i), other(i));
                (s + value * o, t + size * o.abs())
            })
        };
        for _ in 0..SAMPLES {
            let (i, j) = (rng.below(m as u32) as usize, rng.below(n as u32) as usize);
            let (l, q) = (rng.below(k as u32) as usize, rng.below(r as u32) as usize);
            let base = dot(k, &|l| at(x, i, l, k) * at(w, j, l, k));
            let branch = twice(r, &|q| h(i, q), &|q| SCALE * at(b, j, q, r));
            let back = dot(n, &|j| at(gy, i, j, n) * at(w, j, l, k));
            let tail = twice(r, &|q| u(i, q), &|q| at(a, q, l, k));
            let mut see = |got: f32, (want, size): (f64, f64)| {
                worst = worst.max((f64::from(got) - want).abs() / (size.max(1e-30) * rounding));
            };
            see(y[i * n + j], (base.0 + branch.0, base.1 + branch.1));
            see(dx[i * k + l], (back.0 + tail.0, back.1 + tail.1));
            if m <= 256 {
                see(da[q * k + l], twice(m, &|i| u(i, q), &|i| at(x, i, l, k)));
                see(db[j * r + q], twice(m, &|i| h(i, q), &|i| SCALE * at(gy, i, j, n)));
            }
        }
        let finite = [&y, &dx, &da, &db].iter().all(|v| v.iter().all(|x| x.is_finite()));
        Ok(if finite { worst } else { f64::INFINITY })
    }
}

/// One row's figures.
struct Row<'a> {
    sizes: [usize; 4],
    mode: (DType, Precision),
    what: &'a str,
    backward: bool,
    branch: bool,
    seconds: f64,
    /// Bytes of an element of x and y.
    activation: usize,
}

impl Row<'_> {
    fn print(&self, peaks: &Peaks, launches: &str, mib: &str, error: &str) {
        let ([m, k, n, r], (dtype, precision)) = (self.sizes, self.mode);
        let passes = if self.backward { 2 } else { 1 };
        let branch = if self.branch { m * r * (n + k) * if self.backward { 6 } else { 2 } } else { 0 };
        let flops = (passes * 2 * m * n * k + branch) as f64 / self.seconds;
        // The fewest bytes: W, x and y, and going back W, x, gy and dx.
        let moved = passes * n * k * dtype.size() + self.activation * m * (n + k) * passes;
        println!(
            "{:<22} {:<4} {:<9} {:<12} {:>10.4} {:>9.2} {:>6.1}% {:>6.1}% {launches:>8} {:>9.1} {mib:>9} {error:>7}",
            format!("{m} {k} {n} {r}"),
            dtype.name(),
            precision.name(),
            format!("{} {}", self.what, if self.backward { "f+b" } else { "f" }),
            self.seconds * 1e3,
            flops / 1e12,
            100.0 * flops / peaks.flops(precision),
            100.0 * moved as f64 / self.seconds / peaks.copy,
            moved as f64 / f64::from(1 << 20),
        );
    }
}

/// All shapes in all modes.
pub fn tables(setup: &Setup, peaks: &Peaks) -> Outcome {
    println!(
        "{:<22} {:<4} {:<9} {:<12} {:>10} {:>9} {:>7} {:>7} {:>8} {:>9} {:>9} {:>7}",
        "m k n r", "W", "precision", "what", "ms", "TFLOP/s", "peak", "copy", "kernels", "MiB", "peak MiB", "error"
    );
    for sizes in if setup.tiny { &TINY[..] } else { &SHAPES[..] } {
        for (dtype, precision, rounding) in MODES {
            table(setup, peaks, *sizes, (dtype, precision), rounding)?;
        }
    }
    Ok(())
}

/// The rows of one shape in one mode.
fn table(setup: &Setup, peaks: &Peaks, sizes: [usize; 4], mode: (DType, Precision), rounding: f64) -> Outcome {
    for (kind, what) in [(Kind::Fused, "fused"), (Kind::Unfused, "unfused"), (Kind::Frozen, "frozen")] {
        let device = if kind == Kind::Unfused { setup.device.unfused()? } else { setup.device.clone() };
        device.set_precision(mode.1)?;
        let c = Operands::new(sizes, mode.0, &device)?;
        let error = if kind == Kind::Fused { format!("{:.2}", c.worst(rounding)?) } else { String::new() };
        for backward in [false, true] {
            c.pass(kind, backward)?;
            let before = device.stats();
            device.backend().reset_peak();
            c.pass(kind, backward)?;
            let after = device.stats();
            let on = Setup { device: device.clone(), ..*setup };
            let seconds = on.time(|| c.pass(kind, backward))?;
            let row = Row { sizes, mode, what, backward, branch: kind != Kind::Frozen, seconds, activation: 4 };
            let mib = (after.bytes_peak - before.bytes_live) as f64 / f64::from(1 << 20);
            row.print(peaks, &(after.launches - before.launches).to_string(), &format!("{mib:.1}"), &error);
        }
    }
    setup.device.set_precision(Precision::Full)?;
    for backward in [false, true] {
        match rival::frozen(setup, sizes, mode, backward)? {
            Ok(seconds) => {
                let activation = mode.0.size();
                let row = Row { sizes, mode, what: "cublasLt", backward, branch: false, seconds, activation };
                row.print(peaks, "1 a pass", "", "");
            }
            Err(why) => {
                let (size, [m, k, n, r]) = (mode.0.name(), sizes);
                println!("{:<22} {size:<4} {:<9} cublasLt: {why}", format!("{m} {k} {n} {r}"), mode.1.name());
                break;
            }
        }
    }
    Ok(())
}
