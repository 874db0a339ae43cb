//! What LoRA-GA's init costs for one gradient: the 4r leading singular triples with four subspace iterations, on a
//! decaying spectrum with noise. `cargo bench --bench svd`; prints median, fastest and slowest of seven runs, and the
//! median of their processor time, which other programs on the machine do not add to. The products with G are 12·d²·q
//! operations. The rival is `torch.svd_lowrank(G, q=4r, niter=4)` on as many threads.

#[path = "cpu/probe.rs"]
#[allow(dead_code, reason = "the peak of multiply-adds is of no use here")]
mod probe;

use std::hint::black_box;
use std::time::Instant;

use lowrank_core::philox::Rng;
use lowrank_core::{Device, Result, Tensor, no_grad};
use lowrank_lora::linalg::svd_lowrank;

const RUNS: usize = 7;

fn main() {
    if let Err(e) = run() {
        eprintln!("error: {e}");
        std::process::exit(1);
    }
}

fn run() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` only wants to know that it runs.
    let sizes: &[(usize, usize)] = match std::env::args().any(|a| a == "--test") {
        true => &[(128, 8)],
        false => &[(2048, 8), (2048, 16), (4096, 8), (4096, 16)],
    };
    let device = Device::cpu()?;
    for &(d, r) in sizes {
        let g = gradient(d, &device)?;
        let (mut times, mut processor) = (Vec::new(), Vec::new());
        for run in 0..=RUNS {
            let (start, begun) = (Instant::now(), probe::processor_seconds());
            black_box(svd_lowrank(&g, 4 * r, 4, &mut Rng::new(0, 0))?);
            // The first one warms up.
            if run > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
                processor.push((probe::processor_seconds() - begun) * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        processor.sort_by(f64::total_cmp);
        let flops = 12.0 * (d * d * 4 * r) as f64;
        println!(
            "svd_lowrank {d}×{d} r={r} q={} niter=4: {:.1} ms ({:.1} – {:.1}), processor {:.1} ms, products {:.2} GFLOP",
            4 * r,
            times[RUNS / 2],
            times[0],
            times[RUNS - 1],
            processor[RUNS / 2],
            flops / 1e9
        );
    }
    Ok(())
}

/// Rank 64 with a spectrum that falls by a hundred, and noise.
fn gradient(d: usize, device: &Device) -> Result<Tensor> {
    let mut rng = Rng::new(1, 0);
    let mut normal =
        |n: usize, f: &dyn Fn(usize) -> f64| -> Vec<f32> { (0..n).map(|i| (rng.normal() * f(i)) as f32).collect() };
    let left = normal(d * 64, &|i| 10f64.powf(-2.0 * (i % 64) as f64 / 63.0));
    let right = normal(64 * d, &|_| 1.0);
    let noise = normal(d * d, &|_| 0.01);
    no_grad(|| {
        Tensor::from_slice(&left, &[d, 64], device)?
            .matmul(&Tensor::from_slice(&right, &[64, d], device)?)?
            .add(&Tensor::from_slice(&noise, &[d, d], device)?)
    })
}
