//! The low-rank linear on wgpu: fused, unfused and the frozen linear alone, with kernels and bytes beside the time.
//!
//! `cargo bench --features wgpu --bench wgpu` takes the first adapter, `… -- wgpu:1` another one, `… -- --test` runs the
//! smallest shape once. Throughput counts necessary operations only (see `benches/lora.rs`). A pass is put into the queue
//! [`TURNS`] times between two waits, so that what is measured is the device and not the way to it; candidates take
//! turns. The last lines are a large copy, which bounds what memory can do, and a plain product by each variant of the
//! tiles that this adapter has (`LOWRANK_WGPU`), from which to choose in `crates/wgpu/src/tile.rs`.

use std::time::Instant;

use lowrank_core::backend::Block;
use lowrank_core::{DType, Device, Result, Tensor, no_grad, philox};

const SHAPES: [[usize; 4]; 4] = [[64, 256, 256, 8], [512, 768, 768, 8], [512, 2048, 2048, 16], [1024, 4096, 4096, 16]];
/// Passes between two waits.
const TURNS: usize = 5;
/// Ways to compute a product by tiles.
const TILES: [&str; 5] = ["4x4", "8x8", "8x8-wide", "subgroups", "cooperative"];
/// Software adapters take minutes for more operations than this.
const SOFTWARE: usize = 2_000_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fused,
    Unfused,
    Frozen,
}

fn random(shape: &[usize], stream: u32, device: &Device) -> Result<Tensor> {
    let mut rng = philox::Rng::new(1, stream);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect();
    Tensor::from_slice(&values, shape, device)
}

struct Candidate {
    kind: Kind,
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    gy: Tensor,
}

impl Candidate {
    fn new(kind: Kind, [m, k, n, r]: [usize; 4], device: &Device) -> Result<Self> {
        Ok(Candidate {
            kind,
            x: random(&[m, k], 0, device)?.trainable()?,
            w: random(&[n, k], 1, device)?,
            a: random(&[r, k], 2, device)?.trainable()?,
            b: random(&[n, r], 3, device)?.trainable()?,
            gy: random(&[m, n], 4, device)?,
        })
    }

    fn forward(&self) -> Result<Tensor> {
        match self.kind {
            Kind::Frozen => self.x.linear(&self.w, None),
            _ => self.x.lora_linear(&self.w, None, &self.a, &self.b, 2.0, 0.0),
        }
    }

    fn pass(&self, backward: bool) -> Result<()> {
        if !backward {
            return no_grad(|| self.forward()).map(drop);
        }
        [&self.x, &self.a, &self.b].into_iter().for_each(Tensor::zero_grad);
        self.forward()?.backward_with(self.gy.clone())
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

/// Time and speed of a plain product of matrices of `side`.
fn product(device: &Device, side: usize, turns: usize) -> Result<String> {
    let (a, b) = (random(&[side, side], 5, device)?, random(&[side, side], 6, device)?);
    let seconds = time(device, turns, || a.matmul(&b).map(drop))?;
    Ok(format!("{:.3} ms, {:.1} GFLOP/s", seconds * 1e3, 2.0 * (side as f64).powi(3) / seconds / 1e9))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = arguments.iter().any(|a| a == "--test");
    let name = arguments.iter().find(|a| a.starts_with("wgpu")).map_or("wgpu", String::as_str);
    let device = match Device::from_name(name) {
        Ok(device) => device,
        Err(e) => {
            println!("not measured: {e}");
            return Ok(());
        }
    };
    if let Some((side, turns)) = arguments.iter().find_map(|a| a.strip_prefix("product=")?.split_once(',')) {
        let number = |text: &str| text.parse().expect("a number");
        println!("{}", product(&device, number(side), number(turns))?);
        return Ok(());
    }
    let software = device.name().contains("software");
    println!("{}", device.name());
    println!("{:<24} {:<18} {:>10} {:>9} {:>8} {:>9}", "m k n r", "what", "ms", "GFLOP/s", "kernels", "peak MiB");
    let turns = if once || software { 1 } else { TURNS };
    for shape in SHAPES {
        let [m, k, n, r] = shape;
        if once && shape != SHAPES[0] || software && 2 * m * k * n > SOFTWARE {
            continue;
        }
        for (backward, pass) in [(false, "forward"), (true, "forward+backward")] {
            for (kind, what) in [(Kind::Fused, "fused"), (Kind::Unfused, "unfused"), (Kind::Frozen, "frozen")] {
                let on = if kind == Kind::Unfused { device.unfused()? } else { device.clone() };
                let c = Candidate::new(kind, shape, &on)?;
                c.pass(backward)?;
                let before = on.stats();
                on.backend().reset_peak();
                c.pass(backward)?;
                let after = on.stats();
                let seconds = time(&on, turns, || c.pass(backward))?;
                let passes = if backward { 2 } else { 1 };
                let branch = if kind == Kind::Frozen { 0 } else { m * r * (n + k) * if backward { 6 } else { 2 } };
                let flops = (passes * 2 * m * n * k + branch) as f64;
                println!(
                    "{:<24} {:<18} {:>10.3} {:>9.1} {:>8} {:>9.1}",
                    format!("{m} {k} {n} {r}"),
                    format!("{what} {}", if pass == "forward" { "f" } else { "f+b" }),
                    seconds * 1e3,
                    flops / seconds / 1e9,
                    after.launches - before.launches,
                    (after.bytes_peak - before.bytes_live) as f64 / f64::from(1 << 20),
                );
            }
        }
    }
    let side = if once || software { 512 } else { 4096 };
    println!("product {side}³, as chosen: {}", product(&device, side, turns)?);
    for tile in if once { &TILES[..1] } else { &TILES[..] } {
        // A device takes its variant when it is opened.
        let this = std::env::current_exe().expect("this program's path");
        let arguments = [name.to_string(), format!("product={side},{turns}")];
        let output = std::process::Command::new(this).args(arguments).env("LOWRANK_WGPU", tile).output();
        let said = output.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string());
        println!("product {side}³, {tile}: {said}");
    }
    let len = if once || software { 1 << 22 } else { 1 << 26 };
    let from = Tensor::zeros(&[len], DType::F32, &device)?;
    let to = Tensor::zeros(&[len], DType::F32, &device)?;
    let block = Block { rows: 1, cols: len, src_stride: len, dst_stride: len };
    let seconds = time(&device, turns, || device.backend().copy(&block, from.read().view(), to.write().out().set()))?;
    println!(
        "copy of {} MiB: {:.3} ms, {:.1} GB/s read and written",
        len >> 18,
        seconds * 1e3,
        8.0 * len as f64 / seconds / 1e9
    );
    Ok(())
}
