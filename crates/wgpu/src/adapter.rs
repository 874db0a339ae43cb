//! The adapters of this machine, and one wgpu device per adapter for the whole process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use lowrank_backend::{Error, Result};

use crate::pipeline::Pipelines;

/// What `lowrank devices` prints of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// Number in `wgpu:<index>`.
    pub index: usize,
    /// The driver's name of it.
    pub name: String,
    /// Vulkan, Metal or Dx12.
    pub api: String,
    /// Driver and its version.
    pub driver: String,
    /// The processor pretends to be a GPU: right, but slow.
    pub software: bool,
    /// Largest piece of a buffer that a kernel sees at once, in bytes. Larger weights are bound in slices.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Memory that a workgroup shares, in bytes.
    pub workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub workgroup_size: u32,
    /// Smallest and largest subgroup.
    pub subgroups: (u32, u32),
}

impl std::fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.software { ", a software adapter" } else { "" };
        write!(f, "wgpu:{} ({}, {}{kind})", self.index, self.name, self.api)
    }
}

static INSTANCE: LazyLock<wgpu::Instance> = LazyLock::new(|| {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
});

/// Real adapters in the driver's order, then software ones.
static ADAPTERS: LazyLock<Vec<wgpu::Adapter>> = LazyLock::new(|| {
    let mut found: Vec<_> = pollster::block_on(INSTANCE.enumerate_adapters(wgpu::Backends::all()))
        .into_iter()
        .filter(|adapter| adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS))
        .collect();
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    found.sort_by_key(rank);
    found
});

/// Features beyond the core that kernels have variants for, of those that the adapter has.
fn optional(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::ExperimentalFeatures) {
    let features = adapter.features() & wgpu::Features::SUBGROUP;
    #[cfg(feature = "cooperative")]
    {
        let f32s = wgpu::CooperativeScalarType::F32;
        let fits = |p: &wgpu::CooperativeMatrixProperties| {
            [p.m_size, p.n_size, p.k_size] == [8; 3] && p.ab_type == f32s && p.cr_type == f32s
        };
        let feature = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        if adapter.features().contains(feature) && adapter.cooperative_matrix_properties().iter().any(fits) {
            // SAFETY: the one kernel that uses it has been checked by naga, and its first product is checked by the host.
            return (features | feature, unsafe { wgpu::ExperimentalFeatures::enabled() });
        }
    }
    (features, wgpu::ExperimentalFeatures::disabled())
}

static CONTEXTS: LazyLock<Mutex<HashMap<usize, Arc<Context>>>> = LazyLock::new(Mutex::default);

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    AdapterInfo {
        index,
        name: info.name,
        api: format!("{:?}", info.backend),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        software: info.device_type == wgpu::DeviceType::Cpu,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        workgroup_size: limits.max_compute_invocations_per_workgroup,
        subgroups: (info.subgroup_min_size, info.subgroup_max_size),
    }
}

/// Every adapter that can compute, real ones first. Empty without a driver.
pub fn adapters() -> Vec<AdapterInfo> {
    ADAPTERS.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// An open adapter with its compiled kernels.
pub(crate) struct Context {
    pub info: AdapterInfo,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    /// What kernels may use beyond the core of WGSL.
    pub features: wgpu::Features,
    pub pipelines: Pipelines,
    failure: Arc<Failure>,
}

/// The first thing that went wrong outside a call.
#[derive(Default)]
struct Failure {
    failed: AtomicBool,
    message: Mutex<Option<String>>,
}

impl Failure {
    fn set(&self, message: String) {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        self.failed.store(true, Relaxed);
    }
}

impl Context {
    /// The device of an adapter; the same one for every caller, so that kernels are compiled once.
    pub fn open(index: usize) -> Result<Arc<Self>> {
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&index)
            && context.check().is_ok()
        {
            return Ok(context.clone());
        }
        let context = Arc::new(Context::new(index)?);
        contexts.insert(index, context.clone());
        Ok(context)
    }

    /// A device that nobody else has.
    pub fn new(index: usize) -> Result<Self> {
        let failed = |detail: String| Error::Device { device: format!("wgpu:{index}"), detail };
        let Some(adapter) = ADAPTERS.get(index) else {
            let detail = if ADAPTERS.is_empty() {
                "no adapter: neither a Vulkan, Metal nor DX12 driver was found; install the GPU's driver (on Linux \
                 also libvulkan1), or use --device cpu"
                    .to_string()
            } else {
                format!("there are only {} adapters, wgpu:0 to wgpu:{}", ADAPTERS.len(), ADAPTERS.len() - 1)
            };
            return Err(failed(detail));
        };
        let info = describe(index, adapter);
        let limits = adapter.limits();
        let (features, experimental_features) = optional(adapter);
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("lowrank"),
            required_features: features,
            experimental_features,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        });
        let (device, queue) = pollster::block_on(request).map_err(|e| failed(format!("{}: {e}", info.name)))?;
        let failure = Arc::new(Failure::default());
        let sink = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| sink.set(e.to_string())));
        let sink = failure.clone();
        device.set_device_lost_callback(move |_, detail| sink.set(format!("the device was lost: {detail}")));
        Ok(Context { info, device, queue, limits, features, pipelines: Pipelines::default(), failure })
    }

    /// What the device is called.
    pub fn name(&self) -> String {
        self.info.to_string()
    }

    /// A failure of this device.
    pub fn error(&self, detail: impl Into<String>) -> Error {
        Error::Device { device: self.name(), detail: detail.into() }
    }

    /// Remembers a failure: every later call gives the first one.
    pub fn fail(&self, detail: String) -> Error {
        self.failure.set(detail);
        self.check().expect_err("just set")
    }

    /// Fails if anything went wrong on the device since it was opened.
    pub fn check(&self) -> Result<()> {
        if !self.failure.failed.load(Relaxed) {
            return Ok(());
        }
        let message = self.failure.message.lock().unwrap_or_else(PoisonError::into_inner);
        Err(self.error(message.clone().unwrap_or_default()))
    }
}
