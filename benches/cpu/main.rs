//! The CPU backend beside what the machine can do, measured in the same run.
//!
//! ```text
//! cargo bench --bench cpu                      share of the multiply-add peak, per shape; the ceiling of AMX
//! cargo bench --bench cpu -- linear M K N R [MODE]   one low-rank linear, forward + backward, one line
//! cargo bench --bench cpu -- decode M K N R [MODE]   its forward alone
//! cargo bench --bench cpu -- step [MODE]             a whole training step of a Llama-shaped model
//!                                                    (bf16: weights, activations and products; bf16x3: products)
//! cargo bench --bench cpu -- attention [B Q HEADS KV_HEADS DIM]   causal, forward and backward
//! cargo bench --bench cpu -- maps                    elementwise functions
//! cargo bench --bench cpu -- gemm [M N K] [nn|nt|tn] plain products
//! cargo bench --bench cpu -- many                    eight adapters in one batch
//! ```
//! Times come twice: by the clock, and as processor time of the whole process, which does not grow when other programs
//! run on the same cores (with two threads it is about twice the clock's on an idle machine). Figures are medians.
//! Throughput counts necessary operations: forward 2mnk + 2mr(n+k), backward 2mnk + 4mr(n+k).

mod attention;
mod gemm;
mod many;
mod maps;
mod probe;
mod step;

use std::time::Instant;

use lowrank_core::{DType, Device, Precision, Result, Tensor, no_grad, philox};

/// Clock and processor seconds of one run.
#[derive(Clone, Copy)]
pub(crate) struct Time {
    pub clock: f64,
    pub processor: f64,
}

pub(crate) fn time(f: impl FnOnce()) -> Time {
    let (clock, processor) = (Instant::now(), probe::processor_seconds());
    f();
    Time { clock: clock.elapsed().as_secs_f64(), processor: probe::processor_seconds() - processor }
}

pub(crate) fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

fn random(n: usize, stream: u32) -> Vec<f32> {
    let mut rng = philox::Rng::new(1, stream);
    (0..n).map(|_| rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

/// A low-rank linear with random operands.
struct Layer {
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    gy: Tensor,
}

impl Layer {
    /// W and the activations in these dtypes.
    fn new(device: &Device, [m, k, n, r]: [usize; 4], w: DType, activations: DType) -> Result<Self> {
        let tensor = |shape: [usize; 2], stream, dtype| {
            Tensor::from_slice(&random(shape[0] * shape[1], stream), &shape, device)?.cast(dtype)
        };
        Ok(Layer {
            x: tensor([m, k], 0, activations)?.trainable()?,
            w: tensor([n, k], 1, w)?,
            a: tensor([r, k], 2, DType::F32)?.trainable()?,
            b: tensor([n, r], 3, DType::F32)?.trainable()?,
            gy: tensor([m, n], 4, activations)?,
        })
    }

    fn forward(&self, adapter: bool) -> Result<Tensor> {
        match adapter {
            true => self.x.lora_linear(&self.w, None, &self.a, &self.b, 2.0, 0.0),
            false => self.x.linear(&self.w, None),
        }
    }

    fn step(&self, adapter: bool) -> Result<()> {
        [&self.x, &self.a, &self.b].into_iter().for_each(Tensor::zero_grad);
        self.forward(adapter)?.backward_with(self.gy.clone())
    }
}

/// Necessary operations of forward + backward.
fn step_flops([m, k, n, r]: [usize; 4], adapter: bool) -> f64 {
    (4 * m * n * k + if adapter { 6 * m * r * (n + k) } else { 0 }) as f64
}

/// A name and what to time.
type Candidate<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// Runs candidates in turns for about `seconds`; medians, and medians of the ratio to the first.
fn turns(seconds: f64, candidates: &mut [Candidate<'_>]) -> Vec<(Time, f64)> {
    for (_, f) in candidates.iter_mut() {
        f();
    }
    let start = Instant::now();
    let mut times: Vec<Vec<Time>> = candidates.iter().map(|_| Vec::new()).collect();
    while times[0].len() < 5 || start.elapsed().as_secs_f64() < seconds && times[0].len() < 200 {
        for ((_, f), times) in candidates.iter_mut().zip(&mut times) {
            times.push(time(f));
        }
    }
    times
        .iter()
        .map(|own| {
            let pick = |f: fn(&Time) -> f64| median(own.iter().map(f).collect());
            let ratios = own.iter().zip(&times[0]).map(|(a, b)| a.processor / b.processor).collect();
            (Time { clock: pick(|t| t.clock), processor: pick(|t| t.processor) }, median(ratios))
        })
        .collect()
}

fn shares() -> Result<()> {
    let device = Device::from_name("cpu")?;
    let threads = rayon::current_num_threads();
    println!("{threads} threads; GFLOP/s per core by processor time, and the share of the peak of multiply-adds");
    println!(
        "the last four: time of the low-rank step against full precision: products in bf16; weights too; activations too;"
    );
    println!("and f32 through bf16x3");
    match probe::tiles() {
        Some([resident, blocked]) => println!("AMX: {resident:.0} GFLOP/s in resident tiles, {blocked:.0} from panels"),
        None => println!("no AMX here"),
    }
    println!(
        "{:<26} {:>7} {:>9} {:>16} {:>16} {:>8} {:>6} {:>6} {:>6} {:>6}",
        "step", "peak", "ms", "low-rank", "frozen", "adapter", "bf16", "W too", "all", "bf16x3"
    );
    let shapes = [
        [512, 768, 768, 8],
        [512, 2048, 2048, 16],
        [1024, 4096, 4096, 16],
        [2048, 2048, 8192, 64],
        [333, 1000, 1500, 40],
    ];
    for shape in shapes {
        let layer = Layer::new(&device, shape, DType::F32, DType::F32)?;
        let small = Layer::new(&device, shape, DType::BF16, DType::F32)?;
        let smallest = Layer::new(&device, shape, DType::BF16, DType::BF16)?;
        let mut peaks = Vec::new();
        let results = {
            let run = |adapter| layer.step(adapter).expect("step");
            let narrow = |layer: &Layer, precision| {
                device.set_precision(precision).expect("precision");
                layer.step(true).expect("step");
                device.set_precision(Precision::Full).expect("full");
            };
            turns(
                3.0,
                &mut [
                    ("frozen", Box::new(|| run(false))),
                    ("low-rank", Box::new(|| run(true))),
                    ("bf16", Box::new(|| narrow(&layer, Precision::Bf16))),
                    ("bf16, W too", Box::new(|| narrow(&small, Precision::Bf16))),
                    ("all bf16", Box::new(|| narrow(&smallest, Precision::Bf16))),
                    ("bf16x3", Box::new(|| narrow(&layer, Precision::Bf16x3))),
                    ("peak", Box::new(|| peaks.push(probe::multiply_adds()))),
                ],
            )
        };
        let peak = median(peaks);
        let rate = |i: usize| step_flops(shape, i == 1) / results[i].0.processor / 1e9;
        let [m, k, n, r] = shape;
        println!(
            "{:<26} {peak:>7.1} {:>9.2} {:>7.1} ({:>4.1} %) {:>7.1} ({:>4.1} %) {:>+6.1} % {:>6.2} {:>6.2} {:>6.2} {:>6.2}",
            format!("m{m} k{k} n{n} r{r}"),
            results[1].0.clock * 1e3,
            rate(1),
            100.0 * rate(1) / peak,
            rate(0),
            100.0 * rate(0) / peak,
            100.0 * (results[1].1 - 1.0),
            results[2].1 / results[1].1,
            results[3].1 / results[1].1,
            results[4].1 / results[1].1,
            results[5].1 / results[1].1,
        );
    }
    // 64 MiB, which a last-level cache may hold, and 1 GiB.
    for n in [4096, 16384] {
        let k = n;
        let layer = Layer::new(&device, [1, k, n, 16], DType::F32, DType::F32)?;
        let results = turns(
            2.0,
            &mut [
                ("decode", Box::new(|| drop(no_grad(|| layer.forward(true)).expect("forward")))),
                // The same memory on the same pages, added up.
                ("read", Box::new(|| drop(no_grad(|| layer.w.sum()).expect("sum")))),
            ],
        );
        let rate = |i: usize| (4 * n * k) as f64 / results[i].0.clock / 1e9;
        println!("decode m1 k{k} n{n} r16: {:.1} GB/s of W; adding W up {:.1} GB/s", rate(0), rate(1));
    }
    Ok(())
}

fn line(what: &str, shape: [usize; 4], dtype: DType, precision: Precision) -> Result<()> {
    let device = Device::from_name("cpu")?;
    device.set_precision(precision)?;
    let layer = Layer::new(&device, shape, dtype, dtype)?;
    let forward_only = what == "decode";
    let run = |adapter: bool| match forward_only {
        true => drop(no_grad(|| layer.forward(adapter)).expect("forward")),
        false => layer.step(adapter).expect("step"),
    };
    let results = turns(1.0, &mut [("low-rank", Box::new(|| run(true))), ("frozen", Box::new(|| run(false)))]);
    let [m, k, n, r] = shape;
    let (own, frozen) = (results[0].0, results[1].0);
    println!(
        "ours\t{what}\t{dtype}, {}\t{m}x{k}x{n}r{r}\tms {:.3}\tprocessor_ms {:.3}\tfrozen_ms {:.3}\tfrozen_processor_ms {:.3}",
        precision.name(),
        own.clock * 1e3,
        own.processor * 1e3,
        frozen.clock * 1e3,
        frozen.processor * 1e3
    );
    // Tells a slow state of the machine's tiles from a slow kernel.
    if let Some([_, blocked]) = probe::tiles() {
        eprintln!("AMX from panels now: {blocked:.0} GFLOP/s a core");
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let mut mode = |name: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.is_some_and(|i| args.remove(i) == name)
    };
    let (dtype, precision) = match (mode("bf16"), mode("bf16x3")) {
        (true, _) => (DType::BF16, Precision::Bf16),
        (false, true) => (DType::F32, Precision::Bf16x3),
        (false, false) => (DType::F32, Precision::Full),
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        [] => shares(),
        [what @ ("linear" | "decode"), m, k, n, r] => {
            let size = |text: &str| text.parse().expect("a size");
            line(what, [size(m), size(k), size(n), size(r)], dtype, precision)
        }
        ["attention", ref sizes @ ..] => {
            let sizes: Vec<usize> = sizes.iter().map(|text| text.parse().expect("a size")).collect();
            attention::run(&sizes)
        }
        ["maps"] => maps::run(),
        ["many"] => many::run(),
        ["gemm", ref words @ ..] => {
            let sizes: Vec<usize> = words.iter().map_while(|text| text.parse().ok()).collect();
            gemm::run(sizes[..].try_into().ok(), words.get(sizes.len()).copied())
        }
        ["step"] => {
            step::run(dtype, precision);
            Ok(())
        }
        // `cargo test --benches` and filters meant for other benches.
        _ => Ok(()),
    }
}
