//! CUDA against this GPU's own peaks and against cuBLASLt: the low-rank linear, attention, and a training step of a Llama.
//!
//! `cargo bench --features cuda --bench cuda` takes the first GPU, `… -- cuda:1` another one, `… -- --test` runs tiny
//! shapes once. `… -- --record FILE` only writes down what operations give on this device, bit by bit, and `… --
//! --compare FILE` only says how far this device is from it: the folder of `scripts/gpu-check` brings what the interpreter
//! gave. It ends with an error, what failed being named, if results are wrong; times never are.

mod attention;
mod clock;
mod linear;
mod llama;
mod outputs;
mod peaks;
mod rival;

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use lowrank_core::{Cuda, DType, Device, philox};

use clock::Clock;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What a run is done with.
#[derive(Clone)]
struct Setup {
    device: Device,
    cuda: Arc<Cuda>,
    clock: Rc<Clock>,
    /// Tiny shapes, once: the interpreter, or `--test`.
    tiny: bool,
    /// Passes between two marks of the clock.
    turns: usize,
    /// Results that are wrong.
    wrong: Rc<RefCell<Vec<String>>>,
}

/// Uniform in [-1, 1), as the dtype holds it.
fn values(shape: &[usize], stream: u32, dtype: DType) -> Vec<f32> {
    let mut rng = philox::Rng::new(1, stream);
    let n: usize = shape.iter().product();
    let one = |v: f32| if dtype == DType::BF16 { half::bf16::from_f32(v).to_f32() } else { v };
    (0..n).map(|_| one(rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0)).collect()
}

impl Setup {
    /// The GPU's seconds for one call of `f`.
    fn time(&self, f: impl FnMut() -> Outcome) -> Outcome<f64> {
        self.clock.time(self.turns, f)
    }
}

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|i| arguments.get(i + 1));
    let name = arguments.iter().find(|a| a.starts_with("cuda")).map_or("cuda", String::as_str);
    let index: usize = name.strip_prefix("cuda:").unwrap_or("0").parse()?;
    let (cuda, device) = match Cuda::new(index).map(Arc::new).and_then(|c| Ok((c.clone(), Device::new(c)?))) {
        Ok(both) => both,
        Err(e) => {
            println!("not measured: {e}");
            return Ok(());
        }
    };
    if let Some(path) = after("--record") {
        return Ok(std::fs::write(path, outputs::text(&device)?)?);
    }
    if let Some(path) = after("--compare") {
        return outputs::compare(&device, &std::fs::read_to_string(path)?);
    }
    let simulated = device.name().contains("ptxsim");
    let tiny = simulated || arguments.iter().any(|a| a == "--test");
    println!("{}", device.name());
    if simulated {
        println!("an interpreter: the times say nothing about a GPU");
    }
    let clock = Rc::new(Clock::new(&cuda, tiny)?);
    let setup = Setup { device, cuda, clock, tiny, turns: if tiny { 1 } else { 10 }, wrong: Rc::default() };
    let peaks = peaks::measure(&setup)?;
    linear::tables(&setup, &peaks)?;
    attention::table(&setup, &peaks)?;
    llama::steps(&setup)?;
    let wrong = setup.wrong.take();
    if wrong.is_empty() { Ok(()) } else { Err(format!("wrong results: {}", wrong.join("; ")).into()) }
}
