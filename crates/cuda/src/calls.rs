//! Calls of the driver, with results that are numbers.
//!
//! cudarc's declarations return an enum of the codes that its headers knew. A newer driver has others, and a value that is
//! no variant must not come to be in Rust. So the functions are looked up here once more, in the library that cudarc has
//! opened, with the number as result: every code is an error like another, with its number where it has no name.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;

/// What a call of the driver returned, if not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DriverError(pub u32);

/// An outcome of the driver.
pub(crate) type Outcome<T = ()> = Result<T, DriverError>;

impl DriverError {
    pub const OUT_OF_MEMORY: DriverError = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32);
    pub const NO_DEVICE: DriverError = DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE as u32);
    /// A function that the driver's library lacks: its own code for a symbol that is not there.
    pub const NOT_FOUND: DriverError = DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND as u32);

    /// In words, with its name; a code that not even the driver knows by its number.
    pub fn text(self) -> String {
        let said = |f: unsafe fn(u32, *mut *const c_char) -> Outcome| {
            let mut text = std::ptr::null();
            // SAFETY: writes an address, of a constant of the driver's if it knows the code.
            let found = unsafe { f(self.0, &mut text) }.is_ok() && !text.is_null();
            // SAFETY: a text that ends with 0 and is never freed.
            found.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (said(cuGetErrorString), said(cuGetErrorName)) {
            (Some(words), Some(name)) => format!("{words} ({name})"),
            (None, Some(name)) => name,
            _ => format!("error {} of the driver, which has no name for it", self.0),
        }
    }
}

/// Declares functions of the driver.
macro_rules! calls {
    ($($name:ident($($p:ident: $t:ty),*);)*) => { $(
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub(crate) unsafe fn $name($($p: $t),*) -> Outcome {
            type F = unsafe extern "C" fn($($t),*) -> u32;
            static FUNCTION: OnceLock<Option<F>> = OnceLock::new();
            // SAFETY: the signature is the manual's; the library stays open.
            let find = || unsafe { sys::culib().get::<F>(stringify!($name).as_bytes()) }.ok().map(|f| *f);
            let Some(f) = FUNCTION.get_or_init(find) else { return Err(DriverError::NOT_FOUND) };
            // SAFETY: as the caller promises.
            match unsafe { f($($p),*) } {
                0 => Ok(()),
                code => Err(DriverError(code)),
            }
        }
    )* };
}

calls! {
    cuGetErrorName(code: u32, text: *mut *const c_char);
    cuGetErrorString(code: u32, text: *mut *const c_char);
    cuDriverGetVersion(version: *mut c_int);
    cuInit(flags: c_uint);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut sys::CUdevice, index: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: sys::CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, which: sys::CUdevice_attribute, device: sys::CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: sys::CUdevice);
    cuDeviceGetDefaultMemPool(pool: *mut sys::CUmemoryPool, device: sys::CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut sys::CUcontext, device: sys::CUdevice);
    cuCtxSetCurrent(context: sys::CUcontext);
    cuModuleLoadDataEx(
        module: *mut sys::CUmodule, image: *const c_void, count: c_uint, options: *mut sys::CUjit_option,
        values: *mut *mut c_void
    );
    cuModuleGetFunction(f: *mut sys::CUfunction, module: sys::CUmodule, name: *const c_char);
    cuFuncSetAttribute(f: sys::CUfunction, which: sys::CUfunction_attribute, value: c_int);
    cuLaunchKernel(
        f: sys::CUfunction, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
        stream: sys::CUstream, arguments: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuMemPoolSetAttribute(pool: sys::CUmemoryPool, which: sys::CUmemPool_attribute, value: *mut c_void);
    cuMemPoolGetAttribute(pool: sys::CUmemoryPool, which: sys::CUmemPool_attribute, value: *mut c_void);
    cuMemPoolTrimTo(pool: sys::CUmemoryPool, keep: usize);
    cuMemAllocAsync(at: *mut sys::CUdeviceptr, bytes: usize, stream: sys::CUstream);
    cuMemFreeAsync(at: sys::CUdeviceptr, stream: sys::CUstream);
    cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(at: *mut c_void);
    cuMemcpyHtoDAsync_v2(to: sys::CUdeviceptr, from: *const c_void, bytes: usize, stream: sys::CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream);
    cuStreamCreate(stream: *mut sys::CUstream, flags: c_uint);
    cuStreamSynchronize(stream: sys::CUstream);
    cuStreamDestroy_v2(stream: sys::CUstream);
    cuEventCreate(event: *mut sys::CUevent, flags: c_uint);
    cuEventRecord(event: sys::CUevent, stream: sys::CUstream);
    cuEventSynchronize(event: sys::CUevent);
    cuEventDestroy_v2(event: sys::CUevent);
    cuGraphCreate(graph: *mut sys::CUgraph, flags: c_uint);
    cuGraphAddKernelNode_v2(
        node: *mut sys::CUgraphNode, graph: sys::CUgraph, after: *const sys::CUgraphNode, count: usize,
        what: *const sys::CUDA_KERNEL_NODE_PARAMS
    );
    cuGraphInstantiateWithFlags(exec: *mut sys::CUgraphExec, graph: sys::CUgraph, flags: u64);
    cuGraphExecKernelNodeSetParams_v2(
        exec: sys::CUgraphExec, node: sys::CUgraphNode, what: *const sys::CUDA_KERNEL_NODE_PARAMS
    );
    cuGraphLaunch(exec: sys::CUgraphExec, stream: sys::CUstream);
    cuGraphExecDestroy(exec: sys::CUgraphExec);
    cuGraphDestroy(graph: sys::CUgraph);
    cuTensorMapEncodeTiled(
        map: *mut sys::CUtensorMap, dtype: sys::CUtensorMapDataType, rank: u32, at: *mut c_void, dims: *const u64,
        strides: *const u64, boxes: *const u32, steps: *const u32, interleave: sys::CUtensorMapInterleave,
        swizzle: sys::CUtensorMapSwizzle, promotion: sys::CUtensorMapL2promotion, fill: sys::CUtensorMapFloatOOBfill
    );
}

/// What a function writes where it is told to.
///
/// # Safety
/// `f` writes a T if it succeeds; all zeros are one.
unsafe fn written<T>(f: impl FnOnce(*mut T) -> Outcome) -> Outcome<T> {
    let mut value = std::mem::MaybeUninit::zeroed();
    f(value.as_mut_ptr())?;
    // SAFETY: as the caller promises.
    Ok(unsafe { value.assume_init() })
}

/// A device by its number.
pub(crate) fn device(index: c_int) -> Outcome<sys::CUdevice> {
    // SAFETY: writes an integer.
    unsafe { written(|to| cuDeviceGet(to, index)) }
}

/// # Safety
/// A device that the driver has named.
pub(crate) unsafe fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute) -> Outcome<c_int> {
    // SAFETY: writes an integer.
    unsafe { written(|to| cuDeviceGetAttribute(to, which, device)) }
}

/// # Safety
/// A device that the driver has named.
pub(crate) unsafe fn name(device: sys::CUdevice) -> Outcome<String> {
    let mut text = [0u8; 256];
    // SAFETY: room for as many bytes as stated, of which the last stays 0.
    unsafe { cuDeviceGetName(text.as_mut_ptr().cast(), text.len() as c_int - 1, device)? };
    Ok(CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned())
}

/// # Safety
/// A loaded module.
pub(crate) unsafe fn function(module: sys::CUmodule, name: CString) -> Outcome<sys::CUfunction> {
    // SAFETY: writes a handle; the name ends with 0.
    unsafe { written(|to| cuModuleGetFunction(to, module, name.as_ptr())) }
}

/// # Safety
/// The stream is alive; all use of the memory is on it.
pub(crate) unsafe fn malloc_async(stream: sys::CUstream, bytes: usize) -> Outcome<u64> {
    // SAFETY: writes an address.
    unsafe { written(|to| cuMemAllocAsync(to, bytes, stream)) }
}

/// # Safety
/// What `f` does with a place for one handle.
pub(crate) unsafe fn handle<T>(f: impl FnOnce(*mut *mut T) -> Outcome) -> Outcome<*mut T> {
    // SAFETY: a pointer may be null.
    unsafe { written(f) }
}
