//! What the suite above cannot see: limits, the pool, order of uploads, and that a broken kernel shows.
//!
//! Without an adapter these tests say so and pass; `LOWRANK_REQUIRE=wgpu` makes that a failure.

use lowrank_backend::*;

use crate::Wgpu;

mod broken;
mod faults;
mod low_rank;
mod slices;
mod tiles;

/// The first adapter.
fn device() -> Option<Wgpu> {
    let required = std::env::var("LOWRANK_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n.trim() == "wgpu"));
    match Wgpu::new(0) {
        Ok(wgpu) => Some(wgpu),
        Err(e) if required => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// A buffer with its dtype and length.
struct Held(Box<dyn Buffer>, DType, usize);

impl Held {
    fn of<T: Element>(b: &dyn Backend, values: &[T]) -> Self {
        let mut t = Held::empty(b, T::DTYPE, values.len());
        b.upload(bytemuck::cast_slice(values), t.out()).unwrap();
        t
    }

    fn empty(b: &dyn Backend, dtype: DType, len: usize) -> Self {
        Held(b.alloc(len * dtype.size()).unwrap(), dtype, len)
    }

    fn view(&self) -> In<'_> {
        In::new(&*self.0, self.1, self.2)
    }

    fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.0, self.1, self.2)
    }

    fn read<T: Element>(&self, b: &dyn Backend) -> Vec<T> {
        let bytes = pollster::block_on(b.download(self.view())).unwrap();
        bytemuck::pod_collect_to_vec(&bytes)
    }
}

/// Small integers, so that sums are exact in any order.
fn integers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = philox::Rng::new(seed, 0);
    (0..n).map(|_| rng.below(5) as f32 - 2.0).collect()
}

/// `a bᵀ` by plain loops.
fn product([m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f32> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
    (0..m * n).map(|e| dot(e / n, e % n)).collect()
}

#[test]
fn weights_larger_than_a_binding_are_bound_in_slices() {
    let Some(mut wgpu) = device() else { return };
    // A limit of 128 MiB is real on some adapters; 16 KiB makes every path cheap to test.
    for limit in [None, Some(16 << 10)] {
        if let Some(limit) = limit {
            wgpu.max_binding = limit;
        }
        let [m, n, k] = [3, 300, 64];
        let (x, w) = (integers(1, m * k), integers(2, n * k));
        let bias = integers(3, n);
        let (xs, ws, bs) = (Held::of(&wgpu, &x), Held::of(&wgpu, &w), Held::of(&wgpu, &bias));
        let linear = Linear { m, n, k, w: Weight::Dense(ws.view()), bias: Some(bs.view()), precision: Precision::Full };
        let mut y = Held::empty(&wgpu, DType::F32, m * n);
        wgpu.linear_forward(&linear, xs.view(), y.out()).unwrap();
        let want: Vec<f32> = product([m, n, k], &x, &w).iter().enumerate().map(|(i, y)| y + bias[i % n]).collect();
        assert_eq!(y.read::<f32>(&wgpu), want, "forward, limit {limit:?}");

        let gy = integers(4, m * n);
        let gys = Held::of(&wgpu, &gy);
        let mut dx = Held::of(&wgpu, &vec![1.0f32; m * k]);
        wgpu.linear_backward(&linear, gys.view(), dx.out().add()).unwrap();
        let sum = |i: usize, l: usize| 1.0 + (0..n).map(|j| gy[i * n + j] * w[j * k + l]).sum::<f32>();
        let want: Vec<f32> = (0..m * k).map(|e| sum(e / k, e % k)).collect();
        assert_eq!(dx.read::<f32>(&wgpu), want, "backward, limit {limit:?}");

        let ids = [299u32, 0, 64, 299, 300];
        let idss = Held::of(&wgpu, &ids);
        let mut rows = Held::empty(&wgpu, DType::F32, ids.len() * k);
        wgpu.gather(&Rows { rows: n, width: k, count: ids.len() }, ws.view(), idss.view(), rows.out().set()).unwrap();
        let rows = rows.read::<f32>(&wgpu);
        for (i, &id) in ids.iter().enumerate().take(4) {
            assert_eq!(rows[i * k..][..k], w[id as usize * k..][..k], "row {i}, limit {limit:?}");
        }
        assert!(rows[4 * k..].iter().all(|v| v.is_nan()), "an id beyond the table is NaN");
    }
}

/// A weight of 136 MiB with the adapter's own limit: lavapipe's is 128 MiB.
#[test]
fn a_weight_of_136_mebibytes() {
    let Some(wgpu) = device() else { return };
    let [m, n, k] = [2, 69_632, 512];
    let mut w = Held::empty(&wgpu, DType::F32, n * k);
    wgpu.fill(0.5, w.out()).unwrap();
    let last = w.out().narrow((n - 1) * k, k);
    wgpu.fill(2.0, last).unwrap();
    let x = Held::of(&wgpu, &vec![1.0f32; m * k]);
    let linear = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision: Precision::Full };
    let mut y = Held::empty(&wgpu, DType::F32, m * n);
    wgpu.linear_forward(&linear, x.view(), y.out()).unwrap();
    let y = y.read::<f32>(&wgpu);
    for (i, v) in y.iter().enumerate() {
        assert_eq!(*v, if i % n == n - 1 { 1024.0 } else { 256.0 }, "element {i}");
    }
}

#[test]
fn an_upload_comes_after_the_work_that_was_asked_for_before_it() {
    let Some(wgpu) = device() else { return };
    let mut x = Held::of(&wgpu, &[1.0f32; 100]);
    let mut y = Held::empty(&wgpu, DType::F32, 100);
    wgpu.map(Map::Affine(3.0, 0.0), x.view(), y.out().set()).unwrap();
    wgpu.upload(bytemuck::cast_slice(&[5.0f32; 100]), x.out()).unwrap();
    let mut z = Held::empty(&wgpu, DType::F32, 100);
    wgpu.map(Map::Copy, x.view(), z.out().set()).unwrap();
    assert_eq!(y.read::<f32>(&wgpu), [3.0; 100]);
    assert_eq!(z.read::<f32>(&wgpu), [5.0; 100]);
}

#[test]
fn sixteen_bit_views_leave_their_neighbours_alone() {
    let Some(wgpu) = device() else { return };
    for dtype in [DType::BF16, DType::F16] {
        let before: Vec<u16> = (0..9).map(|i| 0x3c00 + i).collect();
        let mut x = Held::empty(&wgpu, dtype, 9);
        wgpu.upload(bytemuck::cast_slice(&before), x.out()).unwrap();
        wgpu.upload(bytemuck::cast_slice(&[7u16, 8, 9]), x.out().narrow(3, 3)).unwrap();
        wgpu.fill(0.0, x.out().narrow(7, 1)).unwrap();
        let bytes = pollster::block_on(wgpu.download(x.view())).unwrap();
        let after: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(after, [0x3c00, 0x3c01, 0x3c02, 7, 8, 9, 0x3c06, 0, 0x3c08]);
        let part = pollster::block_on(wgpu.download(x.view().narrow(3, 1))).unwrap();
        assert_eq!(part, [7, 0]);
    }
}

#[test]
fn nothing_waits_before_a_download() {
    let Some(wgpu) = device() else { return };
    let x = Held::of(&wgpu, &[2.0f32; 1000]);
    let mut y = Held::empty(&wgpu, DType::F32, 1000);
    for _ in 0..100 {
        wgpu.map(Map::Square, x.view(), y.out().set()).unwrap();
    }
    assert_eq!((wgpu.stats().waits, wgpu.stats().launches), (0, 100));
    assert_eq!(y.read::<f32>(&wgpu)[999], 4.0);
    assert_eq!(wgpu.stats().waits, 1);
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let Some(wgpu) = device() else { return };
    let x = Held::empty(&wgpu, DType::F64, 4);
    let mut y = Held::empty(&wgpu, DType::F32, 4);
    let e = wgpu.map(Map::Copy, x.view(), y.out().set()).unwrap_err().to_string();
    assert!(e.contains("wgpu:0") && e.contains("f64"), "{e}");
    let a = Held::of(&wgpu, &[0.0f32; 4]);
    let gemm = Gemm::nn(2, 2, 2).precision(Precision::Bf16);
    let e = wgpu.gemm(&gemm, a.view(), a.view(), y.out().set()).unwrap_err().to_string();
    assert!(e.contains("precision bf16"), "{e}");
    let e = wgpu.alloc(usize::MAX / 2).err().unwrap().to_string();
    assert!(e.contains("out of memory"), "{e}");
    let e = Wgpu::new(1000).err().unwrap().to_string();
    assert!(e.contains("wgpu:1000") && e.contains("adapters"), "{e}");
}

#[test]
fn memory_is_used_again_and_counted() {
    let Some(wgpu) = device() else { return };
    drop(Held::empty(&wgpu, DType::F32, 250));
    assert_eq!(wgpu.stats().bytes_pooled, 1024);
    let held = Held::empty(&wgpu, DType::F32, 256);
    let stats = wgpu.stats();
    assert_eq!((stats.bytes_live, stats.bytes_pooled, stats.bytes_peak), (1024, 0, 1024));
    drop(held);
}
