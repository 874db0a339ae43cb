//! What the suite cannot see: the order of uploads, the pool, and every error as one clear line.
//!
//! Without a driver these tests say so and pass; `LOWRANK_REQUIRE=cuda` makes that a failure. `scripts/with-ptxsim` puts
//! the interpreter in the driver's place.

use std::process::Command;

use lowrank_backend::*;
use lowrank_kernels::{COPY, Module};

use crate::driver::DeviceInfo;
use crate::{Cuda, driver};

mod activations;
mod attention;
mod elsewhere;
mod steps;

/// The first GPU.
pub(crate) fn device() -> Option<Cuda> {
    let required = std::env::var("LOWRANK_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n.trim() == "cuda"));
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(e) if required => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// A buffer with its dtype and length.
pub(crate) struct Held(Box<dyn Buffer>, DType, usize);

impl Held {
    pub(crate) fn of<T: Element>(b: &dyn Backend, values: &[T]) -> Self {
        let mut t = Held::empty(b, T::DTYPE, values.len());
        b.upload(bytemuck::cast_slice(values), t.out()).unwrap();
        t
    }

    fn empty(b: &dyn Backend, dtype: DType, len: usize) -> Self {
        Held(b.alloc(len * dtype.size()).unwrap(), dtype, len)
    }

    pub(crate) fn view(&self) -> In<'_> {
        In::new(&*self.0, self.1, self.2)
    }

    pub(crate) fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.0, self.1, self.2)
    }

    pub(crate) fn read<T: Element>(&self, b: &dyn Backend) -> Vec<T> {
        let bytes = pollster::block_on(b.download(self.view())).unwrap();
        bytemuck::pod_collect_to_vec(&bytes)
    }
}

#[test]
fn uploads_and_readbacks_keep_their_order() {
    let Some(cuda) = device() else { return };
    let mut x = Held::of(&cuda, &[1.0f32; 100]);
    let mut y = Held::empty(&cuda, DType::F32, 100);
    cuda.map(Map::Affine(3.0, 0.0), x.view(), y.out().set()).unwrap();
    cuda.upload(bytemuck::cast_slice(&[5.0f32; 100]), x.out()).unwrap();
    // Asked for now, waited for after the next upload.
    let mut z = Held::empty(&cuda, DType::F32, 100);
    cuda.map(Map::Copy, x.view(), z.out().set()).unwrap();
    let late = cuda.download(z.view());
    cuda.upload(bytemuck::cast_slice(&[7.0f32; 100]), x.out()).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&pollster::block_on(late).unwrap()), [5.0; 100]);
    assert_eq!(y.read::<f32>(&cuda), [3.0; 100]);
    // Nobody waits for this one.
    drop(cuda.download(z.view()));
}

/// More bytes than the ring of pinned memory holds, in pieces of odd sizes, and pieces too large for it.
#[test]
fn every_upload_arrives() {
    let Some(cuda) = device() else { return };
    let mut held = Vec::new();
    for i in 0..40u32 {
        let values: Vec<u32> = (0..30_001 + 997 * i).map(|j| j ^ (i << 20)).collect();
        held.push((Held::of(&cuda, &values), values));
    }
    let large: Vec<u32> = (0..200_000).collect();
    held.push((Held::of(&cuda, &large), large));
    for (t, values) in &held {
        assert!(t.read::<u32>(&cuda) == *values, "{} elements", values.len());
    }
    assert_eq!(cuda.stats().bytes_uploaded, held.iter().map(|(_, v)| 4 * v.len() as u64).sum::<u64>());
}

#[test]
fn sixteen_bit_views_leave_their_neighbours_alone() {
    let Some(cuda) = device() else { return };
    for dtype in [DType::BF16, DType::F16] {
        let before: Vec<u16> = (0..9).map(|i| 0x3c00 + i).collect();
        let mut x = Held::empty(&cuda, dtype, 9);
        cuda.upload(bytemuck::cast_slice(&before), x.out()).unwrap();
        cuda.upload(bytemuck::cast_slice(&[7u16, 8, 9]), x.out().narrow(3, 3)).unwrap();
        cuda.fill(0.0, x.out().narrow(7, 1)).unwrap();
        let bytes = pollster::block_on(cuda.download(x.view())).unwrap();
        let after: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(after, [0x3c00, 0x3c01, 0x3c02, 7, 8, 9, 0x3c06, 0, 0x3c08]);
        let part = pollster::block_on(cuda.download(x.view().narrow(3, 1))).unwrap();
        assert_eq!(part, [7, 0]);
    }
}

/// Views that start anywhere: vector loads must give way to single ones.
#[test]
fn misaligned_views() {
    let Some(cuda) = device() else { return };
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let x = Held::of(&cuda, &values);
    for (from, to, len) in [(1, 0, 17), (0, 3, 30), (4, 8, 20), (2, 2, 61)] {
        let mut y = Held::of(&cuda, &[-1.0f32; 64]);
        cuda.map(Map::Square, x.view().narrow(from, len), y.out().narrow(to, len).set()).unwrap();
        let mut want = [-1.0f32; 64];
        (0..len).for_each(|i| want[to + i] = values[from + i].powi(2));
        assert_eq!(y.read::<f32>(&cuda), want);
    }
}

#[test]
fn nothing_waits_before_a_download() {
    let Some(cuda) = device() else { return };
    let x = Held::of(&cuda, &[2.0f32; 1000]);
    let mut y = Held::empty(&cuda, DType::F32, 1000);
    for _ in 0..20 {
        cuda.map(Map::Square, x.view(), y.out().set()).unwrap();
    }
    assert_eq!((cuda.stats().waits, cuda.stats().launches), (0, 20));
    assert_eq!(y.read::<f32>(&cuda)[999], 4.0);
    assert_eq!(cuda.stats().waits, 1);
}

#[test]
fn memory_is_counted() {
    let Some(cuda) = device() else { return };
    drop(Held::empty(&cuda, DType::F32, 250));
    let held = Held::empty(&cuda, DType::F32, 200);
    let stats = cuda.stats();
    assert_eq!((stats.bytes_live, stats.bytes_peak), (800, 1000));
    cuda.reset_peak();
    assert_eq!(cuda.stats().bytes_peak, 800);
    drop(held);
    assert_eq!(cuda.stats().bytes_live, 0);
}

/// More tensors than one launch takes, some of them without elements.
#[test]
fn optimisers_take_any_number_of_tensors() {
    let Some(cuda) = device() else { return };
    let lens: Vec<usize> =
        (0..170).map(|i| if i == 3 { 0 } else { 1 + i % 5 + if i == 100 { 5000 } else { 0 } }).collect();
    let grads: Vec<Held> = lens.iter().map(|&n| Held::of(&cuda, &vec![0.5f32; n])).collect();
    let mut params: Vec<[Held; 3]> =
        lens.iter().map(|&n| [1.0f32, 0.0, 0.0].map(|v| Held::of(&cuda, &vec![v; n]))).collect();
    let mut words = Scalars::new();
    words[Scalars::LR] = 0.25;
    let mut scalars = Held::of(&cuda, words.words());
    let views: Vec<In<'_>> = grads.iter().map(Held::view).collect();
    cuda.grad_norm(&views, None, scalars.out()).unwrap();
    let total: usize = lens.iter().sum();
    let norm = scalars.read::<f32>(&cuda)[Scalars::NORM];
    assert!((f64::from(norm) - (total as f64 * 0.25).sqrt()).abs() < 1e-4, "{norm}");
    let op = AdamW { beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 1.0, group: 0 };
    let mut list: Vec<AdamWParam<'_>> = params
        .iter_mut()
        .zip(&grads)
        .map(|([p, m, v], g)| AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() })
        .collect();
    let before = cuda.stats().launches;
    cuda.adamw(&op, scalars.view(), &mut list).unwrap();
    assert_eq!(cuda.stats().launches - before, 3, "80 tensors in a launch");
    // m = ¼, v = 1/16: p = 1 − ¼ (1 + ¼ / ¼).
    for ([p, m, v], &n) in params.iter().zip(&lens) {
        assert_eq!(p.read::<f32>(&cuda), vec![0.5; n]);
        assert_eq!((m.read::<f32>(&cuda), v.read::<f32>(&cuda)), (vec![0.25; n], vec![0.0625; n]));
    }
}

// ---- precisions ----

/// Every precision against f64, in units of what it rounds operands to; and each is as coarse as its name says.
#[test]
fn precisions_are_as_good_as_their_names() {
    let Some(cuda) = device() else { return };
    let [m, n, k] = [70, 66, 130];
    let mut rng = philox::Rng::new(9, 0);
    let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.uniform() as f32 * 2.0 - 1.0).collect() };
    let (a, b) = (random(m * k), random(k * n));
    let (x, w) = (Held::of(&cuda, &a), Held::of(&cuda, &b));
    // Operands rounded to this many bits, both of them.
    let modes = [(Precision::Full, 23), (Precision::Bf16x3, 15), (Precision::Tf32, 10), (Precision::Bf16, 7)];
    for (layout, gemm) in [("nn", Gemm::nn(m, n, k)), ("nt", Gemm::nt(m, n, k)), ("tn", Gemm::tn(m, n, k))] {
        let at_a = |i: usize, l: usize| f64::from(if gemm.ta { a[l * m + i] } else { a[i * k + l] });
        let at_b = |l: usize, j: usize| f64::from(if gemm.tb { b[j * k + l] } else { b[l * n + j] });
        let mut last = 0.0;
        for (precision, bits) in modes {
            let mut c = Held::empty(&cuda, DType::F32, m * n);
            cuda.gemm(&gemm.precision(precision), x.view(), w.view(), c.out().set()).unwrap();
            let mut worst = 0.0f64;
            for (e, got) in c.read::<f32>(&cuda).into_iter().enumerate() {
                let (i, j) = (e / n, e % n);
                let (sum, size) =
                    (0..k).map(|l| at_a(i, l) * at_b(l, j)).fold((0.0, 0.0), |(s, t), v| (s + v, t + v.abs()));
                worst = worst.max((f64::from(got) - sum).abs() / size);
            }
            let name = precision.name();
            assert!(worst <= 2.0 * 2f64.powi(-bits - 1) + k as f64 * 2f64.powi(-24), "{layout} {name}: {worst:e}");
            assert!(worst > last, "{layout} {name} is no coarser than the one before: {worst:e}");
            last = worst;
        }
    }
}

/// y, h, dx, da and db of a low-rank layer in one precision.
fn low_rank(cuda: &Cuda, precision: Precision) -> Vec<Vec<f32>> {
    let [m, n, k, r] = [40, 48, 56, 5];
    let mut rng = philox::Rng::new(11, 0);
    let mut random = |len: usize| {
        let values: Vec<f32> = (0..len).map(|_| rng.uniform() as f32 - 0.5).collect();
        Held::of(cuda, &values)
    };
    let (x, w, a, b, gy) = (random(m * k), random(n * k), random(r * k), random(n * r), random(m * n));
    let scalars = Held::of(cuda, Scalars::new().words());
    let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision };
    let op = Lora { base, r, scale: 2.0, a: a.view(), b: b.view(), dropout: None, scalars: scalars.view() };
    let mut out = [m * n, m * r, m * k, r * k, n * r].map(|len| Held::empty(cuda, DType::F32, len));
    let [y, h, dx, da, db] = &mut out;
    cuda.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    let slots = [dx, da, db].map(|t| Some(t.out().set()));
    let [dx, da, db] = slots;
    cuda.lora_backward(&op, x.view(), h.view(), gy.view(), dx, da, db).unwrap();
    out.iter().map(|t| t.read(cuda)).collect()
}

#[test]
fn a_low_rank_layer_in_every_precision() {
    let Some(cuda) = device() else { return };
    let full = low_rank(&cuda, Precision::Full);
    for (precision, bits) in [(Precision::Bf16x3, 13), (Precision::Tf32, 8), (Precision::Bf16, 5)] {
        let got = low_rank(&cuda, precision);
        assert!(got != full, "{} is not another precision", precision.name());
        for (what, (got, want)) in ["y", "h", "dx", "da", "db"].iter().zip(got.iter().zip(&full)) {
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let worst = got.iter().zip(want).fold(0.0f32, |m, (g, w)| m.max((g - w).abs()));
            assert!(worst <= largest * 2f32.powi(-bits), "{what} in {}: {worst} of {largest}", precision.name());
        }
    }
}

// ---- errors ----

#[test]
fn what_is_not_there_is_refused_by_name() {
    let Some(cuda) = device() else { return };
    let x = Held::empty(&cuda, DType::F64, 4);
    let mut y = Held::empty(&cuda, DType::F32, 4);
    let e = cuda.map(Map::Copy, x.view(), y.out().set()).unwrap_err().to_string();
    assert!(e.contains("cuda:0") && e.contains("f64"), "{e}");
    let a = Held::of(&cuda, &[0.0f32; 4]);
    let e = cuda.gemm(
        &Gemm { ta: true, tb: true, ..Gemm::nn(2, 2, 1) },
        a.view().narrow(0, 2),
        a.view().narrow(0, 2),
        y.out().set(),
    );
    assert!(e.unwrap_err().to_string().contains("transposed"));
    let other = Cuda::new(0).unwrap();
    let e = other.map(Map::Copy, a.view(), y.out().set()).unwrap_err().to_string();
    assert!(e.contains("different devices"), "{e}");
    let e = Cuda::new(1000).err().unwrap().to_string();
    assert!(e.contains("cuda:1000") && e.contains("GPUs"), "{e}");
}

#[test]
fn memory_that_is_not_there() {
    let Some(cuda) = device() else { return };
    let _held = cuda.alloc(1000).unwrap();
    let e = cuda.alloc(1 << 50).err().unwrap();
    assert_eq!(e.to_string().matches('\n').count(), 0);
    assert!(matches!(&e, Error::OutOfMemory { requested, live: 1000, .. } if *requested == 1 << 50), "{e}");
    // The device goes on.
    assert_eq!(Held::of(&cuda, &[1u32]).read::<u32>(&cuda), [1]);
}

#[test]
fn ptx_that_the_driver_does_not_take_is_shown_with_its_reason() {
    let Some(cuda) = device() else { return };
    const WRONG: Module =
        Module { name: "wrong", ptx: ".version 7.0\n.target sm_80\n.address_size 64\n.entry k() { frob.u32; }\n" };
    let e = cuda.launch("test", &WRONG, "k").run(1, 1).unwrap_err().to_string();
    assert!(e.contains("wrong.ptx") && e.contains("frob") && !e.contains('\n'), "{e}");
    let e = cuda.launch("test", &COPY, "nothing").run(1, 1).unwrap_err().to_string();
    assert!(e.contains("nothing"), "{e}");
}

#[test]
fn drivers_and_gpus_that_are_too_old() {
    assert!(driver::too_old(11_010).is_some_and(|e| e.contains("CUDA 11.1") && e.contains("11.2")));
    assert_eq!(driver::too_old(12_040), None);
    let mut info = DeviceInfo {
        index: 1,
        name: "Some GPU".into(),
        compute_capability: (7, 5),
        driver: 12_040,
        multiprocessors: 40,
        memory: 1 << 34,
        shared_memory: 64 << 10,
        memory_pools: true,
        simulated: false,
    };
    let e = info.usable().unwrap_err().to_string();
    assert!(e.contains("cuda:1 (Some GPU)") && e.contains("7.5") && e.contains("8.0"), "{e}");
    info.compute_capability = (9, 0);
    assert!(info.usable().is_ok());
    info.driver = 11_060;
    assert!(info.usable().unwrap_err().to_string().contains("too old for this GPU"));
    (info.driver, info.memory_pools) = (12_040, false);
    let e = info.usable().unwrap_err().to_string();
    assert!(e.contains("memory pools") && !e.contains('\n'), "{e}");
}

/// A fault makes the GPU useless to its process, so it happens in another one.
#[test]
fn a_fault_is_one_clear_error() {
    if device().is_none() {
        return;
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "tests::inner_fault"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
}

#[test]
#[ignore = "started by a_fault_is_one_clear_error"]
fn inner_fault() {
    let cuda = Cuda::new(0).unwrap();
    let mut x = Held::of(&cuda, &[1u32; 4]);
    let at = cuda.address("test", "x", x.view()).unwrap() + (1 << 40);
    // A kernel that writes where nothing is: nothing but a wrong call can make one of ours do that.
    let called = cuda.launch("test", &COPY, "fill_32").u64s(&[at]).sizes(&[4]).u32s(&[7]).run(1, 256);
    let seen = called.and_then(|()| cuda.sync()).unwrap_err().to_string();
    assert!(seen.contains("a kernel failed") && seen.contains("CUDA_ERROR") && !seen.contains('\n'), "{seen}");
    // It stays, as an error, and dropping everything is no panic.
    assert!(cuda.fill(0.0, x.out()).and_then(|()| cuda.sync()).is_err());
    assert!(cuda.alloc(16).is_err());
}

/// With the library path empty there is no driver, here at least where ptxsim is one.
#[test]
fn without_a_driver_there_is_one_line_and_no_panic() {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "tests::inner_no_driver"])
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LOWRANK_REQUIRE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
}

#[test]
#[ignore = "started by without_a_driver_there_is_one_line_and_no_panic"]
fn inner_no_driver() {
    if let Err(e) = Cuda::new(0) {
        let e = e.to_string();
        assert!(!e.contains('\n') && (e.contains("driver") || e.contains("GPU")), "{e}");
    }
}
