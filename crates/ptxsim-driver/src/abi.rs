//! The border to C: pointers that the caller vouches for, and the frame around every exported function.
//!
//! All unsafe code of the crate is here. A pointer parameter is wrapped in a type that refuses null and otherwise
//! trusts the caller, which is the contract of the driver API.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::codes::{Code, INVALID_CONTEXT, INVALID_VALUE, NO_DEVICE, UNKNOWN};
use crate::context::current;
use crate::state::{STATE, State};

pub(crate) type R<T = ()> = Result<T, Code>;

/// A pointer that a result is written to.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(crate) fn set(self, v: T) -> R {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, and the caller passes a place for one T.
        unsafe { self.0.write(v) };
        Ok(())
    }
    /// Writes if there is somewhere to write to.
    pub(crate) fn set_opt(self, v: T) -> R {
        if self.0.is_null() { Ok(()) } else { self.set(v) }
    }
    pub(crate) fn set_slice(self, v: &[T]) -> R
    where
        T: Copy,
    {
        if self.0.is_null() && !v.is_empty() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, and the caller passes room for that many T.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), self.0, v.len()) };
        Ok(())
    }
    pub(crate) fn addr(&self) -> usize {
        self.0 as usize
    }
}

/// A pointer that arguments are read from.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn null() -> Self {
        In(std::ptr::null())
    }
    /// A pointer found inside a structure that the caller passed.
    pub(crate) fn from_raw(p: *const T) -> Self {
        In(p)
    }
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }
    pub(crate) fn read(&self, n: usize) -> R<Vec<T>> {
        if n == 0 {
            return Ok(vec![]);
        }
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, and the caller passes n values of T.
        Ok((0..n).map(|i| unsafe { self.0.add(i).read_unaligned() }).collect())
    }
    pub(crate) fn addr(&self) -> usize {
        self.0 as usize
    }
}

impl In<c_char> {
    pub(crate) fn text(&self) -> R<String> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, and the caller passes a string that ends with a zero byte.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// Bytes of host memory at an address that the caller handed over earlier.
pub(crate) fn host_read(addr: usize, n: usize) -> R<Vec<u8>> {
    In(addr as *const u8).read(n)
}

/// Writes host memory at an address that the caller handed over earlier.
pub(crate) fn host_write(addr: usize, bytes: &[u8]) -> R {
    Out(addr as *mut u8).set_slice(bytes)
}

/// Calls a host function of `cuLaunchHostFunc`.
pub(crate) fn host_call(f: extern "C" fn(*mut c_void), data: usize) {
    f(data as *mut c_void);
}

/// True if the environment allows this library to play the driver.
pub(crate) fn allowed() -> bool {
    std::env::var_os("LOWRANK_PTXSIM").is_some_and(|v| v == "1")
}

/// The frame of every exported function: permission, the lock, errors that stick, and no panic across the border.
pub(crate) fn enter(sticky: bool, f: impl FnOnce(&mut State) -> R) -> c_int {
    if !allowed() {
        return NO_DEVICE;
    }
    let run = AssertUnwindSafe(|| {
        let mut s = STATE.lock().unwrap_or_else(|e| e.into_inner());
        if sticky && let Some(code) = s.fault {
            return code;
        }
        if sticky && s.initialised && current() == 0 {
            return INVALID_CONTEXT;
        }
        f(&mut s).err().unwrap_or(0)
    });
    catch_unwind(run).unwrap_or(UNKNOWN)
}

/// Declares exported functions. The first word says whether an earlier kernel fault fails the call.
macro_rules! api {
    ($mode:ident; $($(#[$m:meta])* fn $name:ident($($a:ident: $t:ty),* $(,)?) |$s:ident| $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
            $(#[$m])*
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($a: $t),*) -> std::ffi::c_int {
                $crate::abi::enter($crate::abi::api!(@ $mode), |$s: &mut $crate::state::State| -> $crate::abi::R { $body })
            }
        )*
    };
    (@ always) => { false };
    (@ healthy) => { true };
}
pub(crate) use api;
