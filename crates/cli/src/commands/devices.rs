//! `lowrank devices`.

use lowrank_core::{DType, Device, Precision};

use crate::failure::Result;
use crate::show::say;

/// One line for every device that this build has, and how to get the others.
pub fn run() -> Result<()> {
    for name in ["cpu", "cuda", "wgpu"] {
        match Device::from_name(name) {
            Ok(device) => say(&describe(&device)),
            Err(e) => say(&format!("not here: {e}")),
        }
    }
    #[cfg(feature = "cuda")]
    gpus();
    #[cfg(feature = "wgpu")]
    adapters();
    Ok(())
}

/// Every GPU of the CUDA driver; without a driver the line above has said so.
#[cfg(feature = "cuda")]
fn gpus() {
    for gpu in lowrank_core::cuda_devices().unwrap_or_default() {
        let (major, minor) = gpu.compute_capability;
        say(&format!("  {gpu}: driver of CUDA {}.{}", gpu.driver / 1000, gpu.driver % 1000 / 10));
        say(&format!(
            "    compute capability {major}.{minor}, {} multiprocessors, {} MiB, shared memory {} KiB a block",
            gpu.multiprocessors,
            gpu.memory >> 20,
            gpu.shared_memory >> 10
        ));
        if let Err(e) = gpu.usable() {
            say(&format!("    not usable: {e}"));
        }
    }
}

/// Every GPU that wgpu finds, with what limits it.
#[cfg(feature = "wgpu")]
fn adapters() {
    for a in lowrank_core::wgpu_adapters() {
        let (mebi, kibi) = (|bytes: u64| bytes >> 20, a.workgroup_memory >> 10);
        let (least, most) = a.subgroups;
        say(&format!("  {a}: driver {}", a.driver));
        say(&format!(
            "    binding {} MiB, buffer {} MiB, workgroup memory {kibi} KiB, workgroup {} invocations, subgroup {least} to {most}",
            mebi(a.max_binding),
            mebi(a.max_buffer),
            a.workgroup_size
        ));
    }
}

fn describe(device: &Device) -> String {
    let backend = device.backend();
    let dtypes = [DType::F32, DType::BF16, DType::F16, DType::F64];
    let dtypes: Vec<_> = dtypes.into_iter().filter(|&d| backend.supports_dtype(d)).map(DType::name).collect();
    let precisions = [Precision::Full, Precision::Bf16x3, Precision::Tf32, Precision::Bf16];
    let precisions: Vec<_> =
        precisions.into_iter().filter(|&p| backend.supports_precision(p)).map(Precision::name).collect();
    let activations = [DType::F32, DType::BF16].into_iter().filter(|&d| backend.supports_activations(d));
    let activations: Vec<_> = activations.map(DType::name).collect();
    let threads =
        if device.name() == "cpu" { format!(", {} threads", rayon::current_num_threads()) } else { String::new() };
    format!(
        "{}{threads}: dtypes {}; precision {}; activations {}",
        device.name(),
        dtypes.join(" "),
        precisions.join(" "),
        activations.join(" ")
    )
}
