//! The low-rank linear, fused and unfused, beside the frozen linear alone (the lower bound) and beside plain products
//! of matrixmultiply, gemm (with its AVX-512 kernels) and faer.
//!
//! Throughput counts the *necessary* floating-point operations, so waste shows as slowness: forward 2mnk + 2mr(n+k),
//! backward 2mnk + 4mr(n+k) (u, dB, dA and the branch's part of dx), a frozen linear or a plain product 2mnk.
//! Criterion prints it in "elements"; an element is one such operation, so **Gelem/s is GFLOP/s**. All inputs are random.
//!
//! `cargo bench` takes a few minutes; `cargo bench -- backward` runs a part; `cargo bench -- --test` runs each once.
//! After criterion's own figures (one candidate after the other) comes a table in which the candidates take turns, so
//! that a machine that slows down slows all of them. Rivals: matrixmultiply runs on one thread as built here (it is the
//! product underneath the f64 oracle), gemm and faer on all of them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, measurement::WallTime};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use lowrank_core::{DType, Device, Result, Stats, Tensor, no_grad, philox};

const SHAPES: [Shape; 3] = [
    Shape { m: 512, k: 768, n: 768, r: 8 },
    Shape { m: 512, k: 2048, n: 2048, r: 16 },
    Shape { m: 1024, k: 4096, n: 4096, r: 16 },
];
/// Turns that every candidate takes in the table.
const TURNS: usize = 5;

#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    k: usize,
    n: usize,
    r: usize,
}

impl Shape {
    fn name(self) -> String {
        format!("m{} k{} n{} r{}", self.m, self.k, self.n, self.r)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Backward,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fused,
    Unfused,
    Frozen,
    MatrixMultiply,
    Gemm,
    Faer,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Fused, "fused"),
    (Kind::Unfused, "unfused"),
    (Kind::Frozen, "frozen-only"),
    (Kind::MatrixMultiply, "matrixmultiply"),
    (Kind::Gemm, "gemm"),
    (Kind::Faer, "faer"),
];

impl Kind {
    fn is_rival(self) -> bool {
        matches!(self, Kind::MatrixMultiply | Kind::Gemm | Kind::Faer)
    }

    /// Necessary operations.
    fn flops(self, pass: Pass, Shape { m, k, n, r }: Shape) -> u64 {
        let branch = match (self, pass) {
            (Kind::Fused | Kind::Unfused, Pass::Forward) => 2 * m * r * (n + k),
            (Kind::Fused | Kind::Unfused, Pass::Backward) => 4 * m * r * (n + k),
            _ => 0,
        };
        (2 * m * n * k + branch) as u64
    }
}

/// One thing to time, with its random operands.
struct Candidate {
    kind: Kind,
    shape: Shape,
    device: Device,
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    gy: Tensor,
    host: [Vec<f32>; 2],
    product: Vec<f32>,
}

fn random(n: usize, stream: u32) -> Vec<f32> {
    let mut rng = philox::Rng::new(1, stream);
    (0..n).map(|_| rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

impl Candidate {
    fn new(kind: Kind, shape: Shape) -> Result<Self> {
        let Shape { m, k, n, r } = shape;
        let cpu = Device::from_name("cpu")?;
        let device = if kind == Kind::Unfused { cpu.unfused()? } else { cpu };
        let (x, w) = (random(m * k, 0), random(n * k, 1));
        let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &device);
        Ok(Candidate {
            kind,
            shape,
            x: tensor(&x, &[m, k])?.trainable()?,
            w: tensor(&w, &[n, k])?,
            a: tensor(&random(r * k, 2), &[r, k])?.trainable()?,
            b: tensor(&random(n * r, 3), &[n, r])?.trainable()?,
            gy: tensor(&random(m * n, 4), &[m, n])?,
            host: if kind.is_rival() { [x, w] } else { [Vec::new(), Vec::new()] },
            product: vec![0.0; if kind.is_rival() { m * n } else { 0 }],
            device,
        })
    }

    /// y, with a graph where gradients are recorded.
    fn forward(&self) -> Result<Tensor> {
        match self.kind {
            Kind::Frozen => self.x.linear(&self.w, None),
            _ => self.x.lora_linear(&self.w, None, &self.a, &self.b, 2.0, 0.0),
        }
    }

    /// y and its gradient. The leaves' gradients start anew, and the one of y is handed over, not copied by backward, so
    /// that every pass does the same work and no more.
    fn prepare(&self) -> Result<[Tensor; 2]> {
        [&self.x, &self.a, &self.b].into_iter().for_each(Tensor::zero_grad);
        Ok([self.forward()?, self.gy.scale(1.0)?])
    }

    /// What is timed, given what `prepare` made for a backward pass.
    fn run(&mut self, prepared: Option<[Tensor; 2]>) -> Result<()> {
        match (self.kind, prepared) {
            (Kind::MatrixMultiply, _) => self.matrixmultiply(),
            (Kind::Gemm, _) => self.gemm(),
            (Kind::Faer, _) => self.faer(),
            (_, Some([y, gy])) => {
                y.backward_with(gy)?;
                self.device.backend().sync()?;
            }
            (_, None) => {
                black_box(no_grad(|| self.forward())?);
                self.device.backend().sync()?;
            }
        }
        Ok(())
    }

    /// y = x Wᵀ
    fn matrixmultiply(&mut self) {
        let Shape { m, k, n, .. } = self.shape;
        let [x, w] = &self.host;
        let (n_stride, k_stride, one) = (n as isize, k as isize, 1);
        // SAFETY: x is [m,k], w is [n,k] read transposed, product is [m,n]; all strides stay inside these lengths.
        unsafe {
            matrixmultiply::sgemm(
                m,
                k,
                n,
                1.0,
                x.as_ptr(),
                k_stride,
                one,
                w.as_ptr(),
                one,
                k_stride,
                0.0,
                self.product.as_mut_ptr(),
                n_stride,
                one,
            );
        }
        black_box(&self.product);
    }

    /// y = x Wᵀ
    fn gemm(&mut self) {
        let Shape { m, k, n, .. } = self.shape;
        let [x, w] = &self.host;
        let (n_stride, k_stride, one) = (n as isize, k as isize, 1);
        let threads = gemm::Parallelism::Rayon(0);
        // SAFETY: x is [m,k], w is [n,k] read transposed, product is [m,n]; all strides stay inside these lengths.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.product.as_mut_ptr(),
                one,
                n_stride,
                false,
                x.as_ptr(),
                one,
                k_stride,
                w.as_ptr(),
                k_stride,
                one,
                0.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        }
        black_box(&self.product);
    }

    /// y = x Wᵀ
    fn faer(&mut self) {
        let Shape { m, k, n, .. } = self.shape;
        let [x, w] = &self.host;
        let (x, w) = (MatRef::from_row_major_slice(x, m, k), MatRef::from_row_major_slice(w, n, k));
        let y = MatMut::from_row_major_slice_mut(&mut self.product, m, n);
        matmul(y, Accum::Replace, x, w.transpose(), 1.0, Par::rayon(0));
        black_box(&self.product);
    }

    fn prepared(&self, pass: Pass) -> Option<[Tensor; 2]> {
        (pass == Pass::Backward).then(|| self.prepare().expect("forward"))
    }
}

fn pass_name(pass: Pass) -> &'static str {
    if pass == Pass::Forward { "forward" } else { "backward" }
}

/// Plain products stand beside the forward pass only: a backward pass is bounded by the same 2mnk.
fn candidates(pass: Pass, shape: Shape) -> impl Iterator<Item = (Candidate, &'static str)> {
    KINDS
        .into_iter()
        .filter(move |(kind, _)| pass == Pass::Forward || !kind.is_rival())
        .map(move |(kind, name)| (Candidate::new(kind, shape).expect("operands"), name))
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, pass: Pass, shape: Shape) {
    for (mut candidate, name) in candidates(pass, shape) {
        group.throughput(Throughput::Elements(candidate.kind.flops(pass, shape)));
        group.bench_function(name, |b| {
            // One candidate is both set up and run, one after the other.
            let candidate = std::cell::RefCell::new(&mut candidate);
            b.iter_batched(
                || candidate.borrow().prepared(pass),
                |y| candidate.borrow_mut().run(y).expect("run"),
                BatchSize::PerIteration,
            );
        });
    }
}

/// Median seconds, and what one pass adds to the counters.
struct Row {
    name: &'static str,
    gflops: f64,
    seconds: f64,
    launches: u64,
    peak: u64,
}

fn take_turns(pass: Pass, shape: Shape) -> Vec<Row> {
    let mut all: Vec<_> = candidates(pass, shape).map(|(c, name)| (c, name, Vec::new(), Stats::default(), 0)).collect();
    for _ in 0..TURNS {
        for (candidate, _, times, used, peak) in &mut all {
            let prepared = candidate.prepared(pass);
            candidate.device.backend().reset_peak();
            let before = candidate.device.stats();
            let start = Instant::now();
            candidate.run(prepared).expect("run");
            times.push(start.elapsed().as_secs_f64());
            let after = candidate.device.stats();
            used.launches = after.launches - before.launches;
            *peak = after.bytes_peak - before.bytes_live;
        }
    }
    all.into_iter()
        .map(|(candidate, name, mut times, used, peak)| {
            times.sort_by(f64::total_cmp);
            let seconds = times[TURNS / 2];
            let gflops = candidate.kind.flops(pass, shape) as f64 / seconds / 1e9;
            Row { name, gflops, seconds, launches: used.launches, peak }
        })
        .collect()
}

fn table() {
    println!("\nin turns, median of {TURNS}; MiB: peak bytes above what was there before ({})", DType::F32);
    println!("{:<28} {:<9} {:<15} {:>9} {:>9} {:>9} {:>9}", "shape", "pass", "", "ms", "GFLOP/s", "launches", "MiB");
    for shape in SHAPES {
        for pass in [Pass::Forward, Pass::Backward] {
            for row in take_turns(pass, shape) {
                println!(
                    "{:<28} {:<9} {:<15} {:>9.2} {:>9.1} {:>9} {:>9.2}",
                    shape.name(),
                    pass_name(pass),
                    row.name,
                    row.seconds * 1e3,
                    row.gflops,
                    row.launches,
                    row.peak as f64 / (1 << 20) as f64
                );
            }
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for shape in SHAPES {
        for pass in [Pass::Forward, Pass::Backward] {
            let mut group = criterion.benchmark_group(format!("{} {}", pass_name(pass), shape.name()));
            group
                .sample_size(10)
                .sampling_mode(SamplingMode::Flat)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_secs(1));
            bench(&mut group, pass, shape);
            group.finish();
        }
    }
    criterion.final_summary();
    // `cargo bench` passes `--bench`; a filter, `--test` or `--list` asks for less than everything.
    let rest: Vec<String> = std::env::args().skip(1).collect();
    if rest == ["--bench"] {
        table();
    }
}
