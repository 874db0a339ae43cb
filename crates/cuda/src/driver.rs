//! The driver: whether it is there, what GPUs it has, and its errors as one line each.

use cudarc::driver::sys;
use lowrank_backend::{Error, Result};

use crate::calls::{self, DriverError, Outcome};

/// The oldest driver: stream-ordered memory (11.2) and the PTX of `kernels/` (7.0).
const OLDEST_DRIVER: i32 = 11_020;
/// The oldest GPU: Ampere, for `cp.async` and bf16 products.
const OLDEST_GPU: (i32, i32) = (8, 0);

/// What `lowrank devices` prints of a GPU.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Number in `cuda:<index>`.
    pub index: usize,
    /// The driver's name of it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (i32, i32),
    /// The CUDA version of the driver: 12040 is 12.4.
    pub driver: i32,
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of shared memory that a block may ask for.
    pub shared_memory: i32,
    /// Whether memory may come and go in the order of a stream.
    pub memory_pools: bool,
    /// Not a GPU but the interpreter of the tests.
    pub simulated: bool,
}

impl std::fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.index, self.name)
    }
}

impl DeviceInfo {
    /// Whether kernels run here; if not, why.
    pub fn usable(&self) -> Result<()> {
        let (major, minor) = self.compute_capability;
        let refuse = |detail: String| Err(Error::Device { device: self.to_string(), detail });
        if self.compute_capability < OLDEST_GPU {
            return refuse(format!(
                "compute capability {major}.{minor} is too old, kernels need 8.0 (Ampere) or later; use --device cpu"
            ));
        }
        // A kernel for compute capability 8.0 is translated by any later driver's compiler, 9.0 needs CUDA 11.8.
        if major >= 9 && self.driver < 11_080 {
            return refuse(format!(
                "the driver ({}) is too old for this GPU; install one of CUDA 12",
                version(self.driver)
            ));
        }
        if !self.memory_pools {
            return refuse(
                "the driver has no memory pools for this GPU (stream-ordered allocation), which all memory comes from; \
                 use --device cpu"
                    .into(),
            );
        }
        Ok(())
    }
}

/// 12040 as 12.4.
pub(crate) fn version(v: i32) -> String {
    format!("CUDA {}.{}", v / 1000, v % 1000 / 10)
}

/// Why a driver of this version does not do, if so.
pub(crate) fn too_old(v: i32) -> Option<String> {
    let (have, need) = (version(v), version(OLDEST_DRIVER));
    (v < OLDEST_DRIVER).then(|| format!("the NVIDIA driver is too old: it is of {have}, kernels need {need} or later"))
}

/// Fails with one line unless the driver's library is here, new enough and willing. Returns its version.
fn start() -> Result<i32> {
    let failed = |detail: String| Error::Device { device: "cuda".to_string(), detail };
    // cudarc panics at its first call if the library is absent. SAFETY: tries to open the library, nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err(failed(
            "no NVIDIA driver: libcuda.so.1 (nvcuda.dll) was not found; install the GPU's driver, or use --device cpu"
                .into(),
        ));
    }
    let mut v = 0;
    // SAFETY: writes one integer; allowed before cuInit.
    unsafe { calls::cuDriverGetVersion(&mut v) }.map_err(|e| failed(e.text()))?;
    if let Some(detail) = too_old(v) {
        return Err(failed(detail));
    }
    // SAFETY: may be called at any time.
    match unsafe { calls::cuInit(0) } {
        Ok(()) => Ok(v),
        Err(DriverError::NO_DEVICE) => {
            Err(failed("the NVIDIA driver is here but finds no GPU; use --device cpu".into()))
        }
        Err(e) => Err(failed(format!("the NVIDIA driver does not start: {}", e.text()))),
    }
}

/// Every GPU of the driver, usable or not.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let driver = start()?;
    let failed = |e: DriverError| Error::Device { device: "cuda".to_string(), detail: e.text() };
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { calls::cuDeviceGetCount(&mut count) }.map_err(failed)?;
    (0..count)
        .map(|i| {
            let device = calls::device(i)?;
            use sys::CUdevice_attribute::*;
            // SAFETY: a device that the driver has just named; both only read properties.
            let attribute = |a| unsafe { calls::attribute(device, a) };
            // SAFETY: as above.
            let name = unsafe { calls::name(device)? };
            let mut memory = 0;
            // SAFETY: as above; writes one number.
            unsafe { calls::cuDeviceTotalMem_v2(&mut memory, device)? };
            Ok(DeviceInfo {
                index: i as usize,
                simulated: name.starts_with("ptxsim"),
                name,
                compute_capability: (
                    attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                    attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                ),
                driver,
                multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                memory: memory as u64,
                memory_pools: attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
                shared_memory: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            })
        })
        .collect::<Outcome<_>>()
        .map_err(failed)
}

/// Whether the error is a kernel's fault, or the GPU's: from then on every call fails.
pub(crate) fn is_fault(e: DriverError) -> bool {
    use sys::CUresult::*;
    let faults = [
        CUDA_ERROR_ILLEGAL_ADDRESS,
        CUDA_ERROR_MISALIGNED_ADDRESS,
        CUDA_ERROR_INVALID_ADDRESS_SPACE,
        CUDA_ERROR_INVALID_PC,
        CUDA_ERROR_ILLEGAL_INSTRUCTION,
        CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_LAUNCH_TIMEOUT,
        CUDA_ERROR_ASSERT,
        CUDA_ERROR_ECC_UNCORRECTABLE,
    ];
    faults.iter().any(|&fault| fault as u32 == e.0)
}
