//! Device memory, pinned host memory, copies and fills.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{In, Out, R, api};
use crate::codes::*;
use crate::device::memory;
use crate::state::{State, Work};

fn alloc(s: &mut State, o: Out<u64>, n: usize) -> R {
    s.ready()?;
    if n == 0 {
        return Err(INVALID_VALUE);
    }
    if s.mem().live_bytes() + n as u64 > memory() || n > 1 << 36 {
        return Err(OUT_OF_MEMORY);
    }
    let p = s.mem().alloc(n);
    o.set(p)
}

fn fill(s: &mut State, dst: u64, pattern: Vec<u8>, count: usize, stream: u64) -> R {
    if !dst.is_multiple_of(pattern.len() as u64) {
        return Err(INVALID_VALUE);
    }
    s.submit(stream, Work::Fill { dst, pattern, count })
}

/// A pointer of unified addressing: device memory, or the host's.
fn copy_any(s: &mut State, dst: u64, src: u64, n: usize, stream: u64) -> R {
    let (d, f) = (s.mem().allocation(dst).is_some(), s.mem().allocation(src).is_some());
    let work = match (d, f) {
        (true, true) => Work::DeviceToDevice { dst, src, n },
        (true, false) => Work::HostToDevice { dst, src: src as usize, n },
        (false, true) => Work::DeviceToHost { dst: dst as usize, src, n },
        (false, false) => return Err(INVALID_VALUE),
    };
    s.submit(stream, work)
}

fn pin(s: &mut State, o: Out<usize>, n: usize) -> R {
    s.ready()?;
    let b = vec![0u64; n.div_ceil(8).max(1)].into_boxed_slice();
    let p = b.as_ptr() as usize;
    s.pinned.get_or_insert_default().insert(p, b);
    o.set(p)
}

api! {
    healthy;
    fn cuMemAlloc_v2(o: Out<u64>, n: usize) |s| { alloc(s, o, n) }
    fn cuMemAllocAsync(o: Out<u64>, n: usize, _stream: u64) |s| { alloc(s, o, n) }
    fn cuMemAllocFromPoolAsync(o: Out<u64>, n: usize, _pool: u64, _stream: u64) |s| { alloc(s, o, n) }
    fn cuMemcpyHtoD_v2(dst: u64, src: In<u8>, n: usize) |s| {
        s.submit(0, Work::HostToDevice { dst, src: src.addr(), n })
    }
    fn cuMemcpyHtoDAsync_v2(dst: u64, src: In<u8>, n: usize, stream: u64) |s| {
        s.submit(stream, Work::HostToDevice { dst, src: src.addr(), n })
    }
    fn cuMemcpyDtoH_v2(dst: Out<u8>, src: u64, n: usize) |s| {
        s.submit(0, Work::DeviceToHost { dst: dst.addr(), src, n })
    }
    fn cuMemcpyDtoHAsync_v2(dst: Out<u8>, src: u64, n: usize, stream: u64) |s| {
        s.submit(stream, Work::DeviceToHost { dst: dst.addr(), src, n })
    }
    fn cuMemcpyDtoD_v2(dst: u64, src: u64, n: usize) |s| { s.submit(0, Work::DeviceToDevice { dst, src, n }) }
    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, n: usize, stream: u64) |s| {
        s.submit(stream, Work::DeviceToDevice { dst, src, n })
    }
    fn cuMemcpy(dst: u64, src: u64, n: usize) |s| { copy_any(s, dst, src, n, 0) }
    fn cuMemcpyAsync(dst: u64, src: u64, n: usize, stream: u64) |s| { copy_any(s, dst, src, n, stream) }
    fn cuMemsetD8_v2(dst: u64, v: u8, n: usize) |s| { fill(s, dst, vec![v], n, 0) }
    fn cuMemsetD8Async(dst: u64, v: u8, n: usize, stream: u64) |s| { fill(s, dst, vec![v], n, stream) }
    fn cuMemsetD16_v2(dst: u64, v: u16, n: usize) |s| { fill(s, dst, v.to_le_bytes().to_vec(), n, 0) }
    fn cuMemsetD16Async(dst: u64, v: u16, n: usize, stream: u64) |s| {
        fill(s, dst, v.to_le_bytes().to_vec(), n, stream)
    }
    fn cuMemsetD32_v2(dst: u64, v: c_uint, n: usize) |s| { fill(s, dst, v.to_le_bytes().to_vec(), n, 0) }
    fn cuMemsetD32Async(dst: u64, v: c_uint, n: usize, stream: u64) |s| {
        fill(s, dst, v.to_le_bytes().to_vec(), n, stream)
    }
    fn cuMemHostAlloc(o: Out<usize>, n: usize, _flags: c_uint) |s| { pin(s, o, n) }
    fn cuMemAllocHost_v2(o: Out<usize>, n: usize) |s| { pin(s, o, n) }
}

api! {
    always;
    fn cuMemFree_v2(p: u64) |s| {
        if p == 0 {
            return Ok(());
        }
        s.submit(0, Work::Free(p))
    }
    fn cuMemFreeAsync(p: u64, stream: u64) |s| {
        if p == 0 {
            return Ok(());
        }
        s.submit(stream, Work::Free(p))
    }
    fn cuMemFreeHost(p: usize) |s| {
        s.pinned.get_or_insert_default().remove(&p).map(|_| ()).ok_or(INVALID_VALUE)
    }
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |s| {
        s.ready()?;
        let live = s.mem().live_bytes();
        free.set(memory().saturating_sub(live) as usize)?;
        total.set(memory() as usize)
    }
    fn cuDeviceGetDefaultMemPool(o: Out<u64>, _d: c_int) |s| {
        s.ready()?;
        o.set(8)
    }
    fn cuDeviceGetMemPool(o: Out<u64>, _d: c_int) |s| {
        s.ready()?;
        o.set(8)
    }
    fn cuDeviceSetMemPool(_d: c_int, _pool: u64) |s| { s.ready() }
    fn cuMemPoolSetAttribute(_pool: u64, _a: c_int, _v: In<c_void>) |s| { s.ready() }
    fn cuMemPoolGetAttribute(_pool: u64, _a: c_int, o: Out<u64>) |s| {
        let live = s.mem().live_bytes();
        o.set(live)
    }
    fn cuMemPoolTrimTo(_pool: u64, _n: usize) |s| { s.ready() }
}
