//! Initialisation, the one device, and its context.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint};

use crate::abi::{Out, R, api};
use crate::codes::*;
use crate::device;
use crate::state::{SHARED_DEFAULT, State};

thread_local! {
    /// The contexts of this thread, the current one last.
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The context of this thread; 0 if there is none.
pub(crate) fn current() -> u64 {
    STACK.with_borrow(|s| s.last().copied().unwrap_or(0))
}

/// There is one context, the primary one of the one device, while somebody holds it.
fn context(s: &State, c: u64) -> R {
    s.ready()?;
    if c == PRIMARY && s.contexts > 0 { Ok(()) } else { Err(INVALID_CONTEXT) }
}

const PRIMARY: u64 = 1;
const NAME: &str = "ptxsim (simulated)";

fn device(s: &State, d: c_int) -> R {
    s.ready()?;
    if d == 0 { Ok(()) } else { Err(INVALID_DEVICE) }
}

/// `CUdevice_attribute` by number.
fn attribute(d: &device::Device, a: c_int) -> c_int {
    match a {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => SHARED_DEFAULT as c_int,
        9 => 65536,
        10 => 32,
        12 | 82 => 65536,
        13 => 1_000_000,
        14 => 512,
        16 => d.multiprocessors,
        39 => 2048,
        41 | 31 | 83 | 78 | 79 | 80 => 1,
        75 => d.capability.0,
        76 => d.capability.1,
        81 => d.shared as c_int,
        85 | 95 | 115 => 1,
        97 => d.shared_optin as c_int,
        106 => 32,
        111 => 1024,
        120 => d.clusters.into(),
        _ => 0,
    }
}

api! {
    always;
    fn cuInit(_flags: c_uint) |s| {
        if let Some(code) = device::refusal() {
            return Err(code);
        }
        if let Err(e) = device::device() {
            eprintln!("ptxsim-driver: {e}");
            return Err(NO_DEVICE);
        }
        s.initialised = true;
        Ok(())
    }
    fn cuDriverGetVersion(o: Out<c_int>) |_s| {
        o.set(device::driver().map_err(|e| {
            eprintln!("ptxsim-driver: {e}");
            INVALID_VALUE
        })?)
    }
    fn cuDeviceGetCount(o: Out<c_int>) |s| {
        s.ready()?;
        o.set(1)
    }
    fn cuDeviceGet(o: Out<c_int>, n: c_int) |s| {
        device(s, n)?;
        o.set(0)
    }
    fn cuDeviceGetName(o: Out<c_char>, len: c_int, d: c_int) |s| {
        device(s, d)?;
        let n = NAME.len().min((len.max(1) - 1) as usize);
        let mut text: Vec<c_char> = NAME.bytes().take(n).map(|b| b as c_char).collect();
        text.push(0);
        o.set_slice(&text)
    }
    fn cuDeviceGetUuid(o: Out<[u8; 16]>, d: c_int) |s| {
        device(s, d)?;
        o.set(*b"ptxsim simulated")
    }
    fn cuDeviceGetUuid_v2(o: Out<[u8; 16]>, d: c_int) |s| {
        device(s, d)?;
        o.set(*b"ptxsim simulated")
    }
    fn cuDeviceTotalMem_v2(o: Out<usize>, d: c_int) |s| {
        device(s, d)?;
        o.set(device::memory() as usize)
    }
    fn cuDeviceGetAttribute(o: Out<c_int>, a: c_int, d: c_int) |s| {
        device(s, d)?;
        o.set(attribute(device::device().map_err(|_| NO_DEVICE)?, a))
    }
    fn cuDevicePrimaryCtxRetain(o: Out<u64>, d: c_int) |s| {
        device(s, d)?;
        s.contexts += 1;
        o.set(PRIMARY)
    }
    fn cuDevicePrimaryCtxRelease_v2(d: c_int) |s| {
        device(s, d)?;
        s.contexts = s.contexts.checked_sub(1).ok_or(INVALID_CONTEXT)?;
        Ok(())
    }
    fn cuCtxGetCurrent(o: Out<u64>) |s| {
        s.ready()?;
        o.set(current())
    }
    fn cuCtxSetCurrent(c: u64) |s| {
        s.ready()?;
        if c != 0 {
            context(s, c)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            stack.extend((c != 0).then_some(c));
        });
        Ok(())
    }
    fn cuCtxPushCurrent_v2(c: u64) |s| {
        context(s, c)?;
        STACK.with_borrow_mut(|stack| stack.push(c));
        Ok(())
    }
    fn cuCtxPopCurrent_v2(o: Out<u64>) |s| {
        s.ready()?;
        let c = STACK.with_borrow_mut(Vec::pop).ok_or(INVALID_CONTEXT)?;
        o.set_opt(c)
    }
    fn cuCtxGetDevice(o: Out<c_int>) |s| {
        context(s, current())?;
        o.set(0)
    }
    fn cuCtxSetFlags(_flags: c_uint) |s| { s.ready() }
    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |s| {
        s.ready()?;
        least.set_opt(0)?;
        greatest.set_opt(-5)
    }
    fn cuCtxSetLimit(_limit: c_int, _v: usize) |s| { s.ready() }
    fn cuCtxGetLimit(o: Out<usize>, _limit: c_int) |s| {
        s.ready()?;
        o.set(1024)
    }
    fn cuCtxSetCacheConfig(_c: c_int) |s| { s.ready() }
    fn cuCtxGetCacheConfig(o: Out<c_int>) |s| {
        s.ready()?;
        o.set(0)
    }
    fn cuProfilerStart() |s| { s.ready() }
    fn cuProfilerStop() |s| { s.ready() }
}

api! {
    healthy;
    fn cuCtxSynchronize() |s| { s.ready() }
}
