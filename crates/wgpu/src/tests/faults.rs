//! What goes wrong on a device: no memory, no device any more; and grids that are larger than a dimension of one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::adapter::Context;

const MEBI: usize = 1 << 20;

#[test]
fn without_memory_the_pool_gives_back_and_tries_again() {
    let Some(wgpu) = device() else { return };
    wgpu.pool.budget.store(9 << 20, Relaxed);
    // Six of nine MiB are in the pool, and a bind group holds them beside it.
    let (x, mut y) = (Held::empty(&wgpu, DType::U32, 3 * MEBI / 4), Held::empty(&wgpu, DType::U32, 3 * MEBI / 4));
    wgpu.copy(
        &Block { rows: 1, cols: 8, src_stride: 8, dst_stride: 8 },
        x.view().narrow(0, 8),
        y.out().narrow(0, 8).set(),
    )
    .unwrap();
    drop((x, y));
    assert_eq!((wgpu.stats().bytes_pooled, wgpu.stats().waits), (6 << 20, 0));
    assert!(wgpu.queue().groups() > 0);
    let mut z = Held::empty(&wgpu, DType::F32, MEBI);
    assert_eq!((wgpu.stats().bytes_pooled, wgpu.stats().bytes_live, wgpu.stats().waits), (0, 4 << 20, 1));
    assert_eq!(wgpu.queue().groups(), 0, "a bind group still holds memory");
    wgpu.fill(2.0, z.out()).unwrap();

    // More than there is: an error with the numbers, and nothing is lost by it.
    let e = wgpu.alloc(5 << 20).err().unwrap();
    let Error::OutOfMemory { requested, live, .. } = &e else { panic!("{e}") };
    assert_eq!((*requested, *live), (5 << 20, 4 << 20), "{e}");
    assert!(e.to_string().contains("wgpu:0") && e.to_string().contains("out of memory"), "{e}");
    // A copy to the host needs memory too.
    wgpu.pool.budget.store(6 << 20, Relaxed);
    let e = pollster::block_on(wgpu.download(z.view())).unwrap_err().to_string();
    assert!(e.contains("out of memory"), "{e}");
    wgpu.pool.budget.store(9 << 20, Relaxed);
    assert!(z.read::<f32>(&wgpu).iter().all(|&v| v == 2.0));
}

#[test]
fn a_lost_device_is_one_clear_error() {
    let Some(shared) = device() else { return };
    // Its own device: the others' must not be lost.
    let wgpu = Wgpu::on(Arc::new(Context::new(0).unwrap())).unwrap();
    let (mut x, mut y) = (Held::of(&wgpu, &[1.0f32; 100]), Held::empty(&wgpu, DType::F32, 100));
    wgpu.map(Map::Square, x.view(), y.out().set()).unwrap();
    let before = wgpu.download(y.view());
    wgpu.context.device.destroy();
    // Work that was under way may arrive or not, but says so.
    if let Err(e) = pollster::block_on(before) {
        assert!(e.to_string().contains("lost"), "{e}");
    }
    let _ = wgpu.sync();
    for turn in 0..2 {
        let errors = [
            wgpu.map(Map::Square, x.view(), y.out().set()).err(),
            wgpu.upload(&[0; 400], x.out()).err(),
            pollster::block_on(wgpu.download(y.view())).err(),
            wgpu.alloc(1024).err(),
            wgpu.alloc(1 << 30).err(),
            wgpu.sync().err(),
        ];
        for (i, e) in errors.into_iter().enumerate() {
            let e = e.unwrap_or_else(|| panic!("call {i} of turn {turn} went well")).to_string();
            assert!(e.contains("wgpu:0") && e.contains("the device was lost"), "call {i}: {e}");
        }
    }
    // Buffers of a lost device are dropped in peace, and another one works.
    drop((x, y, wgpu));
    assert_eq!(Held::of(&shared, &[3.0f32]).read::<f32>(&shared), [3.0]);
}

/// 65,600 workgroups of 256, in two rows of the grid, and one element of the last.
#[test]
fn a_grid_of_more_than_65535_workgroups_is_folded() {
    let Some(mut wgpu) = device() else { return };
    let len = 65_599 * 256 + 1;
    let mut x = Held::empty(&wgpu, DType::F32, len + 1);
    let mut tripled = |wgpu: &Wgpu| {
        wgpu.fill(1.0, x.out()).unwrap();
        let mut y = Held::empty(wgpu, DType::F32, len + 1);
        wgpu.fill(-1.0, y.out()).unwrap();
        wgpu.map(Map::Affine(2.0, 1.0), x.view().narrow(0, len), y.out().narrow(0, len).set()).unwrap();
        let y = y.read::<f32>(wgpu);
        y[..len].iter().all(|&v| v == 3.0) && y[len] == -1.0
    };
    assert!(tripled(&wgpu));
    let shader = broken::broken(&lowrank_shaders::MAP, "group.y * groups.x + group.x", 0, "group.x");
    wgpu.mutant = Some((lowrank_shaders::MAP.name, shader));
    assert!(!tripled(&wgpu), "rows of the grid that do the same work do not show");
}
