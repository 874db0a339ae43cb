//! Which GPU the device says it is, with the limits of that one.

use std::ffi::c_int;
use std::sync::LazyLock;

use ptxsim::Module;

/// A compute capability and what depends on it.
pub(crate) struct Device {
    pub capability: (c_int, c_int),
    /// Shared memory of a block with opt-in, and of a multiprocessor.
    pub shared_optin: usize,
    pub shared: usize,
    pub multiprocessors: c_int,
    pub clusters: bool,
}

const HOPPER: Device =
    Device { capability: (9, 0), shared_optin: 227 << 10, shared: 228 << 10, multiprocessors: 132, clusters: true };
/// Too old for what cudarc's users load, which is what it is for.
const TURING: Device =
    Device { capability: (7, 5), shared_optin: 64 << 10, shared: 64 << 10, multiprocessors: 72, clusters: false };
const AMPERE: Device =
    Device { capability: (8, 0), shared_optin: 163 << 10, shared: 164 << 10, multiprocessors: 108, clusters: false };

static DEVICE: LazyLock<Result<Device, String>> =
    LazyLock::new(|| match std::env::var("LOWRANK_PTXSIM_CAPABILITY").as_deref() {
        Err(_) | Ok("9.0") => Ok(HOPPER),
        Ok("8.0") => Ok(AMPERE),
        Ok("7.5") => Ok(TURING),
        Ok(other) => Err(format!("LOWRANK_PTXSIM_CAPABILITY is {other:?}; it can be 7.5, 8.0 or 9.0")),
    });

/// The version of CUDA that the driver says it is of: 11.0 as 11000.
pub(crate) fn driver() -> Result<c_int, String> {
    let Ok(text) = std::env::var("LOWRANK_PTXSIM_DRIVER") else { return Ok(13_000) };
    let version = text.split_once('.').and_then(|(major, minor)| {
        let (major, minor) = (major.parse::<c_int>().ok()?, minor.parse::<c_int>().ok()?);
        ((1..100).contains(&major) && (0..10).contains(&minor)).then_some(major * 1000 + minor * 10)
    });
    version.ok_or_else(|| format!("LOWRANK_PTXSIM_DRIVER is {text:?}; it can be a version like 11.0"))
}

/// The code that the driver refuses to start with, if the environment names one.
pub(crate) fn refusal() -> Option<c_int> {
    std::env::var("LOWRANK_PTXSIM_REFUSAL").ok()?.parse().ok()
}

/// Bytes of memory, in MiB if the environment says how many.
pub(crate) fn memory() -> u64 {
    static BYTES: LazyLock<u64> = LazyLock::new(|| {
        let said = std::env::var("LOWRANK_PTXSIM_MEMORY").ok().and_then(|text| text.parse::<u64>().ok());
        said.map_or(80 << 30, |mebi| mebi.min(80 << 10) << 20)
    });
    *BYTES
}

/// The device; what the environment names is not there otherwise.
pub(crate) fn device() -> Result<&'static Device, &'static str> {
    DEVICE.as_ref().map_err(String::as_str)
}

/// Reads a module, if it is for this device: `sm_90a` is for 9.0 alone, `sm_80` for 8.0 and everything later.
pub(crate) fn module(text: &str) -> Result<Module, String> {
    let (major, minor) = device()?.capability;
    let module = Module::parse(text).map_err(|e| e.to_string())?;
    let target = module.target().strip_prefix("sm_").unwrap_or_default();
    let (number, alone) = target.strip_suffix('a').map_or((target, false), |number| (number, true));
    let (have, need) = (major * 10 + minor, number.parse::<c_int>().unwrap_or(0));
    if need > have || alone && need != have {
        return Err(format!("the module is for {}, the device is {major}.{minor}", module.target()));
    }
    Ok(module)
}
