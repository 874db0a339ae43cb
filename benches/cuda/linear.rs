//! The low-rank linear: fused, unfused, the frozen linear alone, and that one by cuBLASLt.
//!
//! Throughput counts necessary operations only (see `benches/lora.rs`). Every operand is random: zeros take less power and
//! time. Sampled elements of every result are compared with f64 sums on the host before anything is timed
//! (`linear/check.rs`); one that is further away than its precision explains fails the run. The first mode is that of
//! training: W, x, y, gy and dx in bf16, A and B in f32, products of bf16. cuBLASLt's x and y have the dtype of W.

mod check;

use lowrank_core::{DType, Device, Precision, Tensor, no_grad};

use crate::peaks::Peaks;
use crate::{Outcome, Setup, rival, values};
use check::Sampled;

/// (m, k, n, r): a prompt, a wide layer, two large square ones, and two of decoding.
const SHAPES: [[usize; 4]; 6] = [
    [8192, 4096, 4096, 16],
    [8192, 4096, 11008, 64],
    [8192, 8192, 8192, 16],
    [2048, 8192, 8192, 16],
    [16, 4096, 4096, 16],
    [1, 4096, 14336, 64],
];
const TINY: [[usize; 4]; 3] = [[70, 64, 136, 5], [40, 64, 64, 16], [1, 128, 96, 4]];
const SCALE: f64 = 2.0;

/// How x, y and their gradients are stored, how W is, and how products are computed.
#[derive(Clone, Copy, PartialEq)]
struct Mode {
    activations: DType,
    weight: DType,
    precision: Precision,
}

const MODES: [Mode; 5] = [
    Mode { activations: DType::BF16, weight: DType::BF16, precision: Precision::Bf16 },
    Mode { activations: DType::BF16, weight: DType::BF16, precision: Precision::Full },
    Mode { activations: DType::F32, weight: DType::BF16, precision: Precision::Bf16 },
    Mode { activations: DType::F32, weight: DType::F32, precision: Precision::Tf32 },
    Mode { activations: DType::F32, weight: DType::F32, precision: Precision::Full },
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fused,
    Unfused,
    Frozen,
}

/// The operands on the host.
struct Host {
    sizes: [usize; 4],
    mode: Mode,
    x: Vec<f32>,
    w: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    gy: Vec<f32>,
}

impl Host {
    fn new(sizes @ [m, k, n, r]: [usize; 4], mode: Mode) -> Self {
        let x = values(&[m, k], 0, mode.activations);
        let (w, gy) = (values(&[n, k], 1, mode.weight), values(&[m, n], 4, mode.activations));
        let (a, b) = (values(&[r, k], 2, DType::F32), values(&[n, r], 3, DType::F32));
        Host { sizes, mode, x, w, a, b, gy }
    }
}

/// The operands on the device.
struct Operands {
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    gy: Tensor,
}

impl Operands {
    fn new(host: &Host, device: &Device) -> Outcome<Self> {
        let ([m, k, n, r], Mode { activations, weight, .. }) = (host.sizes, host.mode);
        let on = |values: &[f32], shape: [usize; 2], dtype| Tensor::from_slice(values, &shape, device)?.cast(dtype);
        Ok(Operands {
            x: on(&host.x, [m, k], activations)?.trainable()?,
            w: on(&host.w, [n, k], weight)?,
            a: on(&host.a, [r, k], DType::F32)?.trainable()?,
            b: on(&host.b, [n, r], DType::F32)?.trainable()?,
            gy: on(&host.gy, [m, n], activations)?,
        })
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
}

/// One row's figures.
struct Row<'a> {
    sizes: [usize; 4],
    mode: Mode,
    what: &'a str,
    backward: bool,
    branch: bool,
    seconds: f64,
}

impl Row<'_> {
    fn print(&self, peaks: &Peaks, launches: &str, mib: &str, error: &str) {
        let ([m, k, n, r], mode) = (self.sizes, self.mode);
        let passes = if self.backward { 2 } else { 1 };
        let branch = if self.branch { m * r * (n + k) * if self.backward { 6 } else { 2 } } else { 0 };
        let flops = (passes * 2 * m * n * k + branch) as f64 / self.seconds;
        // Exact products of bf16 run on the same units.
        let narrow = mode.activations == DType::BF16 && mode.weight == DType::BF16;
        let peak = peaks.flops(if narrow { Precision::Bf16 } else { mode.precision });
        // The fewest bytes: W, x and y, and going back W, x, gy and dx.
        let moved = passes * n * k * mode.weight.size() + mode.activations.size() * m * (n + k) * passes;
        println!(
            "{} {:<12} {:>10.4} {:>9.2} {:>6.1}% {:>6.1}% {launches:>8} {:>9.1} {mib:>9} {error:>7}",
            label(self.sizes, mode),
            format!("{} {}", self.what, pass_name(self.backward)),
            self.seconds * 1e3,
            flops / 1e12,
            100.0 * flops / peak,
            100.0 * moved as f64 / self.seconds / peaks.copy,
            moved as f64 / f64::from(1 << 20),
        );
    }
}

fn pass_name(backward: bool) -> &'static str {
    if backward { "f+b" } else { "f" }
}

fn label([m, k, n, r]: [usize; 4], mode: Mode) -> String {
    let Mode { activations, weight, precision } = mode;
    format!("{:<22} {:<4} {:<4} {:<9}", format!("{m} {k} {n} {r}"), activations.name(), weight.name(), precision.name())
}

/// All shapes in all modes.
pub fn tables(setup: &Setup, peaks: &Peaks) -> Outcome {
    println!("error: of sampled elements, in units of what the precision explains; above 1 is wrong");
    println!(
        "{:<22} {:<4} {:<4} {:<9} {:<12} {:>10} {:>9} {:>7} {:>7} {:>8} {:>9} {:>9} {:>7}",
        "m k n r",
        "x",
        "W",
        "precision",
        "what",
        "ms",
        "TFLOP/s",
        "peak",
        "copy",
        "kernels",
        "MiB",
        "peak MiB",
        "error"
    );
    let mut ratios = Vec::new();
    for sizes in if setup.tiny { &TINY[..] } else { &SHAPES[..] } {
        // The largest one only as it is trained.
        let modes = if *sizes == [8192, 8192, 8192, 16] { &MODES[..1] } else { &MODES };
        for mode in modes {
            ratios.push(table(setup, peaks, *sizes, *mode)?);
        }
    }
    println!("times of one over the other (1.05 or less is wanted of fused over frozen): f, f+b, and what b adds to f");
    println!("{:<42} {:>23} {:>23}", "m k n r, x, W, precision", "fused / frozen", "frozen / cublasLt");
    ratios.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// `f`, `f+b` and their difference over another's.
fn over(one: Option<[f64; 2]>, other: Option<[f64; 2]>) -> String {
    let (Some([f, both]), Some([g, all])) = (one, other) else { return format!("{:>23}", "-") };
    format!("{:>7.3} {:>7.3} {:>7.3}", f / g, both / all, (both - f) / (all - g))
}

/// The rows of one shape in one mode; returns the line of ratios.
fn table(setup: &Setup, peaks: &Peaks, sizes: [usize; 4], mode: Mode) -> Outcome<String> {
    let host = Host::new(sizes, mode);
    let sampled = Sampled::new(&host);
    let mut seconds = [None; 3];
    for (kind, what) in [(Kind::Fused, "fused"), (Kind::Unfused, "unfused"), (Kind::Frozen, "frozen")] {
        let device = if kind == Kind::Unfused { setup.device.unfused()? } else { setup.device.clone() };
        device.set_precision(mode.precision)?;
        device.set_activations(mode.activations)?;
        let c = Operands::new(&host, &device)?;
        let error = sampled.worst(&c, kind)?;
        if error > 1.0 {
            setup.wrong.borrow_mut().push(format!("{} {what} is off by {error:.3}", label(sizes, mode)));
        }
        let mut times = [0.0; 2];
        for backward in [false, true] {
            c.pass(kind, backward)?;
            let before = device.stats();
            device.backend().reset_peak();
            c.pass(kind, backward)?;
            let after = device.stats();
            times[usize::from(backward)] = setup.time(|| c.pass(kind, backward))?;
            let seconds = times[usize::from(backward)];
            let row = Row { sizes, mode, what, backward, branch: kind != Kind::Frozen, seconds };
            let mib = (after.bytes_peak - before.bytes_live) as f64 / f64::from(1 << 20);
            let error = format!("{error:.3}");
            row.print(peaks, &(after.launches - before.launches).to_string(), &format!("{mib:.1}"), &error);
        }
        seconds[kind as usize] = Some(times);
    }
    setup.device.set_precision(Precision::Full)?;
    setup.device.set_activations(DType::F32)?;
    let theirs = cublas(setup, peaks, sizes, mode)?;
    let [fused, _, frozen] = seconds;
    Ok(format!("{} {} {}", label(sizes, mode), over(fused, frozen), over(frozen, theirs)))
}

/// cuBLASLt's rows, in the dtype of W; none where that is not what is measured here.
fn cublas(setup: &Setup, peaks: &Peaks, sizes: [usize; 4], mode: Mode) -> Outcome<Option<[f64; 2]>> {
    if mode.weight == DType::BF16 && mode.precision != Precision::Bf16 {
        return Ok(None);
    }
    let mut times = [0.0; 2];
    for backward in [false, true] {
        match rival::frozen(setup, sizes, (mode.weight, mode.precision), backward)? {
            Ok(seconds) => {
                let mode = Mode { activations: mode.weight, ..mode };
                Row { sizes, mode, what: "cublasLt", backward, branch: false, seconds }
                    .print(peaks, "1 a pass", "", "");
                times[usize::from(backward)] = seconds;
            }
            Err(why) => {
                println!("{} cublasLt: {why}", label(sizes, mode));
                return Ok(None);
            }
        }
    }
    Ok(Some(times))
}
