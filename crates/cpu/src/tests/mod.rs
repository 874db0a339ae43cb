//! Every operation against plain loops, hand-computed values or the f64 definitions.

mod activations;
mod attention;
mod elementwise;
mod fused;
mod gemm;
mod lora;
mod lora_multi;
mod moves;
mod paths;
mod precision;
mod stats;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use lowrank_backend::philox::Rng;
use lowrank_backend::{Backend, Buffer, DType, Element, In, Out, Reference, Scalars, Slot};
use rayon::ThreadPoolBuilder;

use crate::{Cpu, Path};

/// A tensor on one backend.
struct T<'b> {
    backend: &'b dyn Backend,
    buffer: Box<dyn Buffer>,
    dtype: DType,
    len: usize,
}

fn put<'b, E: Element>(backend: &'b dyn Backend, data: &[E]) -> T<'b> {
    let mut t = T { backend, buffer: backend.alloc(size_of_val(data)).unwrap(), dtype: E::DTYPE, len: data.len() };
    backend.upload(bytemuck::cast_slice(data), t.out()).unwrap();
    t
}

/// Filled with NaN, so that reading it shows.
fn empty(backend: &dyn Backend, len: usize) -> T<'_> {
    put(backend, &vec![f32::NAN; len])
}

impl T<'_> {
    fn view(&self) -> In<'_> {
        In::new(&*self.buffer, self.dtype, self.len)
    }

    fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.buffer, self.dtype, self.len)
    }

    fn set(&mut self) -> Slot<'_> {
        self.out().set()
    }

    fn add(&mut self) -> Slot<'_> {
        self.out().add()
    }

    fn slot(&mut self, add: bool) -> Slot<'_> {
        if add { self.add() } else { self.set() }
    }

    fn get<E: Element>(&self) -> Vec<E> {
        let mut future = pin!(self.backend.download(self.view()));
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(bytes) => {
                let bytes = bytes.unwrap();
                bytes.chunks_exact(size_of::<E>()).map(bytemuck::pod_read_unaligned).collect()
            }
            Poll::Pending => panic!("a download on the host is ready at once"),
        }
    }

    fn f32(&self) -> Vec<f32> {
        self.get()
    }
}

/// Uniform in [−1, 1).
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0);
    (0..len).map(|_| (2.0 * rng.uniform() - 1.0) as f32).collect()
}

/// Small whole numbers, whose sums of products are exact.
fn integers(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed, 1);
    (0..len).map(|_| rng.below(7) as f32 - 3.0).collect()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let close = (g - w).abs() <= tolerance * scale || g == w || (g.is_nan() && w.is_nan());
        assert!(close, "{what}[{i}]: {g}, expected {w}");
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Puts an emulator behind AMX where the processor has none. Tiles then stay available for the life of the process, so tests
/// that ask about paths call this first.
pub(crate) fn emulate() {
    #[cfg(target_arch = "x86_64")]
    if !Path::Amx.available() && Path::Avx512Bf16.available() && amxsim::install() {
        // SAFETY: the emulator executes them on every thread.
        unsafe { crate::assume_amx() };
    }
}

/// Runs `f` with every path of products that this processor has; names the others.
fn on_every_path(f: impl Fn(Cpu)) {
    emulate();
    for path in Path::ALL {
        match Cpu::with_path(path) {
            Ok(cpu) => f(cpu),
            Err(error) => println!("skipped: {error}"),
        }
    }
}

/// What `f` gives on every path must equal what it gives on the reference, and be the same bits for 1, 2, 3 and 8 threads.
#[track_caller]
fn against_reference(what: &str, tolerance: f32, f: impl Fn(&dyn Backend) -> Vec<Vec<f32>> + Sync) {
    let want = f(&Reference::new());
    emulate();
    for path in Path::ALL.into_iter().filter(|path| path.available()) {
        let run = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| f(&Cpu::with_path(path).unwrap()))
        };
        let got = run(1);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_close(&format!("{what} on {path}, output {i}"), got, want, tolerance);
        }
        for threads in [2, 3, 8] {
            let again = run(threads);
            let same = got.iter().zip(&again).all(|(a, b)| bits(a) == bits(b));
            assert!(same, "{what} on {path}: {threads} threads differ");
        }
    }
}

/// The scalar buffer with every word that operations read.
fn scalars() -> Vec<f32> {
    let mut s = Scalars::new();
    s[Scalars::STEP] = 3.0;
    s[Scalars::CLIP] = 0.5;
    s[Scalars::CORRECTION1] = 0.19;
    s[Scalars::CORRECTION2] = 0.002;
    s[Scalars::LR] = 0.01;
    s[Scalars::LR + 1] = 0.1;
    s.words().to_vec()
}
