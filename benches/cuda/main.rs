//! CUDA against this GPU's own peaks and against cuBLASLt: the low-rank linear, attention, and a training step of a Llama.
//!
//! `cargo bench --features cuda --bench cuda` takes the first GPU, `… -- cuda:1` another one, `… -- --test` runs tiny
//! shapes once. `… -- --record FILE` only writes down what operations give on this device, bit by bit, and `… --
//! --compare FILE` measures and says how far this device is from it: the folder of `scripts/gpu-check` brings what the
//! interpreter gave.

mod attention;
mod linear;
mod llama;
mod outputs;
mod peaks;
mod rival;

use std::error::Error;
use std::time::Instant;

use lowrank_core::{DType, Device, philox};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What a run is done with.
struct Setup {
    device: Device,
    /// Tiny shapes, once: the interpreter, or `--test`.
    tiny: bool,
    /// Passes between two waits.
    turns: usize,
}

/// Uniform in [-1, 1), as the dtype holds it.
fn values(shape: &[usize], stream: u32, dtype: DType) -> Vec<f32> {
    let mut rng = philox::Rng::new(1, stream);
    let n: usize = shape.iter().product();
    let one = |v: f32| if dtype == DType::BF16 { half::bf16::from_f32(v).to_f32() } else { v };
    (0..n).map(|_| one(rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0)).collect()
}

/// Seconds of one call of `f`, in the best of three groups of calls; `wait` waits for the device.
fn time(turns: usize, wait: impl Fn() -> Outcome, mut f: impl FnMut() -> Outcome) -> Outcome<f64> {
    f()?;
    wait()?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..turns {
            f()?;
        }
        wait()?;
        best = best.min(start.elapsed().as_secs_f64() / turns as f64);
    }
    Ok(best)
}

impl Setup {
    fn time(&self, f: impl FnMut() -> Outcome) -> Outcome<f64> {
        time(self.turns, || Ok(self.device.backend().sync()?), f)
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let name = arguments.iter().find(|a| a.starts_with("cuda")).map_or("cuda", String::as_str);
    let device = match Device::from_name(name) {
        Ok(device) => device,
        Err(e) => {
            println!("not measured: {e}");
            return Ok(());
        }
    };
    if let Some(path) = after("--record") {
        return Ok(std::fs::write(path, outputs::text(&device)?)?);
    }
    let simulated = device.name().contains("ptxsim");
    let tiny = simulated || arguments.iter().any(|a| a == "--test");
    println!("{}", device.name());
    if simulated {
        println!("an interpreter: the times say nothing about a GPU");
    }
    if let Some(path) = after("--compare") {
        outputs::compare(&device, &std::fs::read_to_string(path)?)?;
    }
    let setup = Setup { device, tiny, turns: if tiny { 1 } else { 10 } };
    let peaks = peaks::measure(&setup)?;
    linear::tables(&setup, &peaks)?;
    attention::table(&setup, &peaks)?;
    llama::steps(&setup)
}
