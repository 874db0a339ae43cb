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
const AMPERE: Device =
    Device { capability: (8, 0), shared_optin: 163 << 10, shared: 164 << 10, multiprocessors: 108, clusters: false };

static DEVICE: LazyLock<Result<Device, String>> =
    LazyLock::new(|| match std::env::var("LOWRANK_PTXSIM_CAPABILITY").as_deref() {
        Err(_) | Ok("9.0") => Ok(HOPPER),
        Ok("8.0") => Ok(AMPERE),
        Ok(other) => Err(format!("LOWRANK_PTXSIM_CAPABILITY is {other:?}; it can be 8.0 or 9.0")),
    });

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
