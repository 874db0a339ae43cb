//! An open GPU: the driver's context, and kernels compiled when they are first used.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::raw::c_void;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cudarc::driver::sys;
use lowrank_backend::{Error, Result};
use lowrank_kernels::Module;

use crate::calls::{self, DriverError};
use crate::driver::{self, DeviceInfo};
use crate::hopper::Maps;

/// Bytes of the compiler's messages that are kept.
const LOG: usize = 8192;
/// Dynamic shared memory that needs no asking.
const SHARED_DEFAULT: u32 = 48 << 10;

static CONTEXTS: LazyLock<Mutex<HashMap<usize, Arc<Context>>>> = LazyLock::new(Mutex::default);

/// A GPU, open for the life of the process: its kernels are compiled once, however many handles there are.
pub(crate) struct Context {
    pub info: DeviceInfo,
    raw: sys::CUcontext,
    pub pool: sys::CUmemoryPool,
    pub maps: Maps,
    kernels: Mutex<Kernels>,
}

/// The loaded files by name, each with its kernels by name.
type Kernels = HashMap<&'static str, Loaded>;

struct Loaded {
    raw: sys::CUmodule,
    functions: HashMap<String, Function>,
}

/// A kernel of a loaded module, which is never unloaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Function {
    pub raw: sys::CUfunction,
    /// Dynamic shared memory that it may ask for.
    shared: u32,
}

// SAFETY: handles of the driver, which locks for itself; nothing is reached through them but by its calls.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Loaded {}

impl Context {
    /// The context of a GPU; the same one for every caller.
    pub fn open(index: usize) -> Result<Arc<Self>> {
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&index) {
            return Ok(context.clone());
        }
        let context = Arc::new(Context::new(index)?);
        contexts.insert(index, context.clone());
        Ok(context)
    }

    fn new(index: usize) -> Result<Self> {
        let failed = |detail: String| Error::Device { device: format!("cuda:{index}"), detail };
        let mut devices = driver::devices()?;
        if index >= devices.len() {
            let last = devices.len().saturating_sub(1);
            return Err(failed(format!("there are {} GPUs, cuda:0 to cuda:{last}", devices.len())));
        }
        let info = devices.swap_remove(index);
        info.usable()?;
        let open = || -> Result<_, DriverError> {
            let device = calls::device(index as i32)?;
            // SAFETY: a valid device; the primary context is retained for the life of the process.
            let raw = unsafe { calls::handle(|to| calls::cuDevicePrimaryCtxRetain(to, device))? };
            // SAFETY: the context just retained.
            unsafe { calls::cuCtxSetCurrent(raw)? };
            // SAFETY: a valid device.
            let pool = unsafe { calls::handle(|to| calls::cuDeviceGetDefaultMemPool(to, device))? };
            // By default every synchronisation gives pooled memory back to the system.
            let mut keep = u64::MAX;
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            // SAFETY: this attribute is a u64.
            unsafe { calls::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast())? };
            Ok((raw, pool))
        };
        let (raw, pool) = open().map_err(|e| failed(format!("{}: {}", info.name, e.text())))?;
        Ok(Context { info, raw, pool, maps: Maps::default(), kernels: Mutex::default() })
    }

    /// What the device is called.
    pub fn name(&self) -> String {
        self.info.to_string()
    }

    /// A failure of this device.
    pub fn error(&self, detail: impl Into<String>) -> Error {
        Error::Device { device: self.name(), detail: detail.into() }
    }

    /// A failed call of the driver.
    pub fn failed(&self, what: &str, e: DriverError) -> Error {
        if driver::is_fault(e) {
            return self.error(format!(
                "a kernel failed: {}; seen at {what}, but kernels run later than they are called: an earlier one may be \
                 the cause. This process cannot use the GPU any more",
                e.text()
            ));
        }
        self.error(format!("{what}: {}", e.text()))
    }

    /// Makes this thread's calls go to this GPU.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: retained for the life of the process.
        unsafe { calls::cuCtxSetCurrent(self.raw) }.map_err(|e| self.failed("cuCtxSetCurrent", e))
    }

    /// A kernel, compiled if it is the first of its file, that may ask for `shared` bytes of dynamic shared memory.
    pub fn function(&self, module: &Module, entry: &str, shared: u32) -> Result<Function> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if !kernels.contains_key(module.name) {
            kernels.insert(module.name, Loaded { raw: self.load(module)?, functions: HashMap::new() });
        }
        let Some(loaded) = kernels.get_mut(module.name) else { unreachable!("loaded above") };
        if let Some(f) = loaded.functions.get(entry).filter(|f| shared <= f.shared) {
            return Ok(*f);
        }
        self.bind()?;
        let name = CString::new(entry).map_err(|e| self.error(e.to_string()))?;
        // SAFETY: a loaded module that is never unloaded.
        let raw = unsafe { calls::function(loaded.raw, name) }
            .map_err(|e| self.failed(&format!("kernel {entry} of {}", module.name), e))?;
        if shared > SHARED_DEFAULT {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a kernel of a loaded module.
            unsafe { calls::cuFuncSetAttribute(raw, attribute, shared as i32) }
                .map_err(|e| self.failed(&format!("{shared} bytes of shared memory for {entry}"), e))?;
        }
        let f = Function { raw, shared: shared.max(SHARED_DEFAULT) };
        loaded.functions.insert(entry.to_string(), f);
        Ok(f)
    }

    /// Has the driver compile a file of PTX.
    fn load(&self, module: &Module) -> Result<sys::CUmodule> {
        self.bind()?;
        let image = CString::new(module.ptx).map_err(|e| self.error(e.to_string()))?;
        let mut log = vec![0u8; LOG];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG as *mut c_void];
        let mut raw = std::ptr::null_mut();
        // SAFETY: the text ends with 0, and the log has the size that is stated.
        let done = unsafe {
            let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
            calls::cuModuleLoadDataEx(&mut raw, image.as_ptr().cast(), 2, options, values)
        };
        done.map_err(|e| {
            let end = log.iter().position(|&b| b == 0).unwrap_or(LOG);
            let log = String::from_utf8_lossy(&log[..end]).trim().replace('\n', "; ");
            let why = e.text();
            self.error(format!(
                "the driver ({}) does not compile {}.ptx: {why}: {log}",
                driver::version(self.info.driver),
                module.name
            ))
        })?;
        Ok(raw)
    }
}
