//! The low-rank linear on CUDA: fused, unfused and the frozen linear alone, checked, timed, with kernels and bytes.
//!
//! `cargo bench --features cuda --bench cuda` takes the first GPU, `… -- cuda:1` another one, `… -- --test` runs a tiny
//! shape once. Throughput counts necessary operations only (see `benches/lora.rs`). A pass is put on the stream
//! [`TURNS`] times between two waits, so that what is measured is the GPU and not the way to it. Every row is of random
//! numbers: zeros take less power and time. The shares are of this device's own large product and large copy, measured
//! first. Sampled elements of every result are compared with f64 sums on the host before anything is timed.

use std::time::Instant;

use lowrank_core::backend::Block;
use lowrank_core::{DType, Device, Result, Tensor, no_grad, philox};

/// (m, k, n, r): a prompt, a wide layer, a large square one, and two of decoding.
const SHAPES: [[usize; 4]; 5] = [
    [8192, 4096, 4096, 16],
    [8192, 4096, 11008, 64],
    [2048, 8192, 8192, 16],
    [16, 4096, 4096, 16],
    [1, 4096, 14336, 64],
];
const TINY: [[usize; 4]; 2] = [[70, 66, 130, 5], [1, 128, 96, 4]];
/// Passes between two waits.
const TURNS: usize = 10;
/// Elements of each result that are compared with the host's.
const SAMPLES: u32 = 64;
const SCALE: f64 = 2.0;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fused,
    Unfused,
    Frozen,
}

/// Uniform in [-1, 1), as the dtype holds it.
fn values(shape: &[usize], stream: u32, dtype: DType) -> Vec<f32> {
    let mut rng = philox::Rng::new(1, stream);
    let n: usize = shape.iter().product();
    let one = |v: f32| if dtype == DType::BF16 { half::bf16::from_f32(v).to_f32() } else { v };
    (0..n).map(|_| one(rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0)).collect()
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
    fn new(sizes: [usize; 4], dtype: DType, device: &Device) -> Result<Self> {
        let [m, k, n, r] = sizes;
        let shapes = [[m, k], [n, k], [r, k], [n, r], [m, n]];
        let dtypes = [DType::F32, dtype, DType::F32, DType::F32, DType::F32];
        let host: [Vec<f32>; 5] = std::array::from_fn(|i| values(&shapes[i], i as u32, dtypes[i]));
        let on = |i: usize| Tensor::from_slice(&host[i], &shapes[i], device);
        let w = if dtype == DType::F32 { on(1)? } else { on(1)?.cast(dtype)? };
        let (x, a, b, gy) = (on(0)?.trainable()?, on(2)?.trainable()?, on(3)?.trainable()?, on(4)?);
        Ok(Operands { sizes, host, x, w, a, b, gy })
    }

    fn forward(&self, kind: Kind) -> Result<Tensor> {
        match kind {
            Kind::Frozen => self.x.linear(&self.w, None),
            _ => self.x.lora_linear(&self.w, None, &self.a, &self.b, SCALE, 0.0),
        }
    }

    fn pass(&self, kind: Kind, backward: bool) -> Result<()> {
        if !backward {
            return no_grad(|| self.forward(kind)).map(drop);
        }
        [&self.x, &self.a, &self.b].into_iter().for_each(Tensor::zero_grad);
        self.forward(kind)?.backward_with(self.gy.clone())
    }

    /// The largest error of sampled elements of y, dx, da and db, in units of f32 rounding of the sum of magnitudes.
    fn worst(&self) -> Result<f64> {
        let [m, k, n, r] = self.sizes;
        let [x, w, a, b, gy] = &self.host;
        let (_, y) = (self.pass(Kind::Fused, true)?, no_grad(|| self.forward(Kind::Fused))?.to_vec::<f32>()?);
        let grad = |t: &Tensor| t.grad().expect("a gradient was asked for").to_vec::<f32>();
        let (dx, da, db) = (grad(&self.x)?, grad(&self.a)?, grad(&self.b)?);
        let mut rng = philox::Rng::new(2, 0);
        let mut worst = 0.0f64;
        // (Σ, Σ|·|) of products.
        let dot = |len: usize, f: &dyn Fn(usize) -> f64| {
            (0..len).map(f).fold((0.0, 0.0), |(s, t), v: f64| (s + v, t + v.abs()))
        };
        let at = |v: &[f32], i: usize, j: usize, width: usize| f64::from(v[i * width + j]);
        let h = |i: usize, q: usize| dot(k, &|l| at(x, i, l, k) * at(a, q, l, k)).0;
        let u = |i: usize, q: usize| SCALE * dot(n, &|j| at(gy, i, j, n) * at(b, j, q, r)).0;
        for _ in 0..SAMPLES {
            let (i, j) = (rng.below(m as u32) as usize, rng.below(n as u32) as usize);
            let (l, q) = (rng.below(k as u32) as usize, rng.below(r as u32) as usize);
            let base = dot(k, &|l| at(x, i, l, k) * at(w, j, l, k));
            let branch = dot(r, &|q| SCALE * h(i, q) * at(b, j, q, r));
            let back = dot(n, &|j| at(gy, i, j, n) * at(w, j, l, k));
            let tail = dot(r, &|q| u(i, q) * at(a, q, l, k));
            let mut see = |got: f32, (want, size): (f64, f64)| {
                worst = worst.max((f64::from(got) - want).abs() / (size.max(1e-30) * 2f64.powi(-24)));
            };
            see(y[i * n + j], (base.0 + branch.0, base.1 + branch.1 + k as f64));
            see(dx[i * k + l], (back.0 + tail.0, back.1 + tail.1 + n as f64));
            if m <= 256 {
                see(da[q * k + l], dot(m, &|i| u(i, q) * at(x, i, l, k)));
                see(db[j * r + q], dot(m, &|i| SCALE * at(gy, i, j, n) * h(i, q)));
            }
        }
        let finite = [&y, &dx, &da, &db].iter().all(|v| v.iter().all(|x| x.is_finite()));
        Ok(if finite { worst } else { f64::INFINITY })
    }
}

/// Seconds of one call of `f`, in the best of three groups of calls.
fn time(device: &Device, turns: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    device.backend().sync()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..turns {
            f()?;
        }
        device.backend().sync()?;
        best = best.min(start.elapsed().as_secs_f64() / turns as f64);
    }
    Ok(best)
}

/// FLOP/s of a large product of f32, and bytes/s of a large copy (read and written).
fn peaks(device: &Device, tiny: bool, turns: usize) -> Result<(f64, f64)> {
    let side = if tiny { 128 } else { 8192 };
    let random = |stream| Tensor::from_slice(&values(&[side, side], stream, DType::F32), &[side, side], device);
    let (a, b) = (random(5)?, random(6)?);
    let product = 2.0 * (side as f64).powi(3) / time(device, turns, || a.matmul(&b).map(drop))?;
    let len = if tiny { 1 << 12 } else { 1 << 28 };
    let from = if tiny { a.clone() } else { Tensor::zeros(&[len], DType::F32, device)? };
    let to = Tensor::zeros(&[len], DType::F32, device)?;
    let block = Block { rows: 1, cols: len, src_stride: len, dst_stride: len };
    let copy = || {
        let from = from.read();
        device.backend().copy(&block, from.view().narrow(0, len), to.write().out().set())
    };
    let bytes = 8.0 * len as f64 / time(device, turns, copy)?;
    println!("product {side}³ f32: {:.2} TFLOP/s; copy of {} MiB: {:.1} GB/s", product / 1e12, len >> 18, bytes / 1e9);
    Ok((product, bytes))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.iter().find(|a| a.starts_with("cuda")).map_or("cuda", String::as_str);
    let device = match Device::from_name(name) {
        Ok(device) => device,
        Err(e) => {
            println!("not measured: {e}");
            return Ok(());
        }
    };
    let simulated = device.name().contains("ptxsim");
    let tiny = simulated || arguments.iter().any(|a| a == "--test");
    println!("{}", device.name());
    if simulated {
        println!("an interpreter: the times say nothing about a GPU");
    }
    let turns = if tiny { 1 } else { TURNS };
    let (product, copy) = peaks(&device, tiny, turns)?;
    println!(
        "{:<22} {:<4} {:<12} {:>10} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7}",
        "m k n r", "W", "what", "ms", "TFLOP/s", "product", "copy", "kernels", "peak MiB", "error"
    );
    for sizes in if tiny { &TINY[..] } else { &SHAPES[..] } {
        for dtype in [DType::F32, DType::BF16] {
            table(&device, *sizes, dtype, turns, (product, copy))?;
        }
    }
    Ok(())
}

/// The rows of one shape.
fn table(device: &Device, sizes: [usize; 4], dtype: DType, turns: usize, (product, copy): (f64, f64)) -> Result<()> {
    let [m, k, n, r] = sizes;
    for (kind, what) in [(Kind::Fused, "fused"), (Kind::Unfused, "unfused"), (Kind::Frozen, "frozen")] {
        let on = if kind == Kind::Unfused { device.unfused()? } else { device.clone() };
        let c = Operands::new(sizes, dtype, &on)?;
        let error = if kind == Kind::Fused { format!("{:.2}", c.worst()?) } else { String::new() };
        for backward in [false, true] {
            c.pass(kind, backward)?;
            let before = on.stats();
            on.backend().reset_peak();
            c.pass(kind, backward)?;
            let after = on.stats();
            let seconds = time(&on, turns, || c.pass(kind, backward))?;
            let passes = if backward { 2 } else { 1 };
            let branch = if kind == Kind::Frozen { 0 } else { m * r * (n + k) * if backward { 6 } else { 2 } };
            let flops = (passes * 2 * m * n * k + branch) as f64 / seconds;
            // The fewest bytes: W, x and y, and going back W, x, gy and dx.
            let moved = passes * n * k * dtype.size() + 4 * m * (n + k) * if backward { 2 } else { 1 };
            println!(
                "{:<22} {:<4} {:<12} {:>10.4} {:>9.2} {:>7.1}% {:>7.1}% {:>8} {:>9.1} {:>7}",
                format!("{m} {k} {n} {r}"),
                dtype.name(),
                format!("{what} {}", if backward { "f+b" } else { "f" }),
                seconds * 1e3,
                flops / 1e12,
                100.0 * flops / product,
                100.0 * moved as f64 / seconds / copy,
                after.launches - before.launches,
                (after.bytes_peak - before.bytes_live) as f64 / f64::from(1 << 20),
                error,
            );
        }
    }
    Ok(())
}
