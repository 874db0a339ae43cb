//! candle's and burn's autograd on one low-rank linear, `y = x Wᵀ + 2 (x Aᵀ) Bᵀ` with W frozen: forward and backward (dx, dA,
//! dB), one line as the other scripts here print it.
//!
//! usage: rivals candle|burn M K N R        (f32; RAYON_NUM_THREADS sets the threads)

use std::hint::black_box;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: rivals candle|burn M K N R";
    let sizes: Vec<usize> = args.iter().skip(1).map(|a| a.parse().expect(usage)).collect();
    let &[m, k, n, r] = &sizes[..] else { panic!("{usage}") };
    let times = match args[0].as_str() {
        "candle" => candle([m, k, n, r]).expect("candle"),
        "burn" => burn([m, k, n, r]),
        _ => panic!("{usage}"),
    };
    println!("{}\tlinear\tf32\t{m}x{k}x{n}r{r}\tms {:.3}\tprocessor_ms {:.3}", args[0], times[0], times[1]);
}

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Medians of milliseconds by the clock and of processor time.
fn time(mut f: impl FnMut()) -> [f64; 2] {
    f();
    let (begin, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    while times[0].len() < 5 || begin.elapsed().as_secs_f64() < 1.0 && times[0].len() < 200 {
        let (clock, processor) = (Instant::now(), processor_seconds());
        f();
        times[0].push(clock.elapsed().as_secs_f64() * 1e3);
        times[1].push((processor_seconds() - processor) * 1e3);
    }
    times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    })
}

/// Of all threads of this process (Linux).
fn processor_seconds() -> f64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: a timespec is two 64-bit numbers; 2 is CLOCK_PROCESS_CPUTIME_ID.
    unsafe { clock_gettime(2, &mut time) };
    time[0] as f64 + time[1] as f64 * 1e-9
}

/// candle computes the gradient of the frozen W as well: its tensors know no "no gradient".
fn candle([m, k, n, r]: [usize; 4]) -> candle_core::Result<[f64; 2]> {
    use candle_core::{Device, Tensor, Var};
    let tensor = |rows, cols, seed| Tensor::from_vec(numbers(rows * cols, seed), (rows, cols), &Device::Cpu);
    let (w, gy) = (tensor(n, k, 1)?, tensor(m, n, 5)?);
    let x = Var::from_tensor(&tensor(m, k, 4)?)?;
    let (a, b) = (Var::from_tensor(&tensor(r, k, 2)?)?, Var::from_tensor(&tensor(n, r, 3)?)?);
    Ok(time(|| {
        let step = || -> candle_core::Result<_> {
            let branch = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
            let y = (x.matmul(&w.t()?)? + (branch * 2.0)?)?;
            (y * &gy)?.sum_all()?.backward()
        };
        let grads = step().expect("step");
        black_box((grads.get(&x).is_some(), grads.get(&a).is_some(), grads.get(&b).is_some()));
    }))
}

fn burn([m, k, n, r]: [usize; 4]) -> [f64; 2] {
    use burn::tensor::{Device, Tensor, TensorData};
    let device = Device::flex().autodiff();
    let tensor = |rows, cols, seed| -> Tensor<2> {
        Tensor::from_data(TensorData::new(numbers(rows * cols, seed), [rows, cols]), &device)
    };
    let (w, gy, x) = (tensor(n, k, 1), tensor(m, n, 5), tensor(m, k, 4).require_grad());
    let (a, b) = (tensor(r, k, 2).require_grad(), tensor(n, r, 3).require_grad());
    time(|| {
        let branch = x.clone().matmul(a.clone().transpose()).matmul(b.clone().transpose());
        let y = x.clone().matmul(w.clone().transpose()) + branch.mul_scalar(2.0);
        let grads = (y * gy.clone()).sum().backward();
        black_box((x.grad(&grads), a.grad(&grads), b.grad(&grads)));
        device.sync().expect("sync");
    })
}
