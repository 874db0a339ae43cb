//! A handle on a backend, with the state that belongs to a device rather than to a tensor.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use lowrank_backend::{
    Backend, Buffer, DType, Dropout, Error, In, Out, Precision, Reference, Result, Scalars, Stats, Unfused,
};

/// A processor. Clones are handles on the same one; tensors of different devices do not mix.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
    /// Device side of `State::scalars`.
    scalars: RwLock<Box<dyn Buffer>>,
    /// Dropout sites used since the last `begin_step`.
    next_stream: AtomicU32,
}

struct State {
    scalars: Scalars,
    precision: Precision,
    activations: DType,
    seed: u64,
}

impl Device {
    /// A device over a backend of your own.
    pub fn new(backend: Arc<dyn Backend>) -> Result<Self> {
        let scalars = Scalars::new();
        let mut buffer = backend.alloc(Scalars::LEN * 4)?;
        backend.upload(bytemuck::cast_slice(scalars.words()), Out::new(&mut *buffer, DType::F32, Scalars::LEN))?;
        Ok(Device(Arc::new(Inner {
            backend,
            state: Mutex::new(State { scalars, precision: Precision::Full, activations: DType::F32, seed: 0 }),
            scalars: RwLock::new(buffer),
            next_stream: AtomicU32::new(0),
        })))
    }

    /// The CPU with fused kernels; `LOWRANK_CPU` forces a path of them, see [`lowrank_cpu::Path`].
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Result<Self> {
        Device::new(Arc::new(lowrank_cpu::Cpu::from_env()?))
    }

    /// An NVIDIA GPU through its driver, by its number in `lowrank devices`.
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize) -> Result<Self> {
        Device::new(Arc::new(lowrank_cuda::Cuda::new(index)?))
    }

    /// A GPU through Vulkan, Metal or DX12, by its number in `lowrank devices`.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(index: usize) -> Result<Self> {
        Device::new(Arc::new(lowrank_wgpu::Wgpu::new(index)?))
    }

    /// Plain loops in f64: the oracle of the tests, slow.
    pub fn reference() -> Result<Self> {
        Device::new(Arc::new(Reference::new()))
    }

    /// The same processor with only the required methods: every fused operation runs by its definition.
    pub fn unfused(&self) -> Result<Self> {
        Device::new(Arc::new(Unfused::new(self.0.backend.clone())))
    }

    /// A device by its name on the command line: `cpu`, `cuda[:i]`, `wgpu[:i]`, `reference`, `auto`.
    ///
    /// A device that was not compiled in is named together with the command that adds it.
    pub fn from_name(name: &str) -> Result<Self> {
        let (kind, index) = match name.split_once(':') {
            Some((kind, i)) => (kind, Some(i)),
            None => (name, None),
        };
        let unknown = |detail: String| Err(Error::Device { device: name.to_string(), detail });
        if let Some(i) = index
            && (i.parse::<usize>().is_err() || !matches!(kind, "cuda" | "wgpu"))
        {
            return unknown("unknown device; write cpu, cuda[:i], wgpu[:i] or auto".into());
        }
        match kind {
            "reference" => Device::reference(),
            // A GPU before the CPU, but not a processor that pretends to be one.
            #[cfg(feature = "cuda")]
            "auto" if real_gpu() => Device::cuda(0),
            #[cfg(feature = "wgpu")]
            "auto" if lowrank_wgpu::adapters().first().is_some_and(|adapter| !adapter.software) => Device::wgpu(0),
            #[cfg(feature = "cpu")]
            "cpu" | "auto" => Device::cpu(),
            #[cfg(not(feature = "cpu"))]
            "cpu" | "auto" => unknown(compiled_out("cpu")),
            #[cfg(feature = "wgpu")]
            "wgpu" => Device::wgpu(index.and_then(|i| i.parse().ok()).unwrap_or(0)),
            #[cfg(not(feature = "wgpu"))]
            "wgpu" => unknown(compiled_out("wgpu")),
            #[cfg(feature = "cuda")]
            "cuda" => Device::cuda(index.and_then(|i| i.parse().ok()).unwrap_or(0)),
            #[cfg(not(feature = "cuda"))]
            "cuda" => unknown(compiled_out("cuda")),
            _ => unknown("unknown device; write cpu, cuda[:i], wgpu[:i] or auto".into()),
        }
    }

    /// The backend behind the handle.
    pub fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    /// What the device is called in messages.
    pub fn name(&self) -> String {
        self.0.backend.name()
    }

    /// Counters of the backend.
    pub fn stats(&self) -> Stats {
        self.0.backend.stats()
    }

    /// Whether two handles are of one device.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How products are computed from now on. Refused by name if the device has not got it.
    pub fn set_precision(&self, precision: Precision) -> Result<()> {
        if !self.0.backend.supports_precision(precision) {
            return Err(Error::unsupported("set_precision", self.name(), format!("precision {}", precision.name())));
        }
        self.state().precision = precision;
        Ok(())
    }

    /// How products are computed.
    pub fn precision(&self) -> Precision {
        self.state().precision
    }

    /// How activations are stored from now on: f32, or bf16 for half the memory and traffic. An embedding's result has this
    /// dtype, and every operation after it that of its input; parameters, statistics and gradients of parameters stay f32.
    /// Refused by name if the device has not got it.
    pub fn set_activations(&self, dtype: DType) -> Result<()> {
        if !matches!(dtype, DType::F32 | DType::BF16) || !self.0.backend.supports_activations(dtype) {
            return Err(Error::unsupported("set_activations", self.name(), format!("activations in {dtype}")));
        }
        self.state().activations = dtype;
        Ok(())
    }

    /// What activations beside parameters of this dtype are stored in.
    pub fn activations(&self, parameters: DType) -> DType {
        match parameters {
            DType::F32 => self.state().activations,
            other => other,
        }
    }

    /// Seed of dropout.
    pub fn set_seed(&self, seed: u64) {
        self.state().seed = seed;
    }

    /// Starts forward pass number `step`: new dropout masks, the same for the same (seed, step) on every device.
    ///
    /// Call it before each micro-batch; backward must come before the next call.
    pub fn begin_step(&self, step: u32) -> Result<()> {
        if step >= 1 << 24 {
            return Err(Error::invalid("begin_step", format!("step {step} is not below 2^24")));
        }
        self.0.next_stream.store(0, Ordering::Relaxed);
        self.update_scalars(|s| s[Scalars::STEP] = step as f32)
    }

    /// A dropout site of the current step with its own stream of random numbers. `p` in [0, 1).
    pub fn dropout_site(&self, p: f64) -> Result<Dropout> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid("dropout", format!("p = {p} is not in [0, 1)")));
        }
        let stream = self.0.next_stream.fetch_add(1, Ordering::Relaxed);
        Ok(Dropout { p, seed: self.state().seed, stream })
    }

    /// The step of the last `begin_step`.
    pub fn step(&self) -> u32 {
        self.state().scalars[Scalars::STEP] as u32
    }

    /// Changes per-step scalars on the host and uploads them. What the device wrote itself (norm, clip factor) is kept
    /// on the host side as it was last set there, so set these before, not after, `grad_norm`.
    pub fn update_scalars(&self, change: impl FnOnce(&mut Scalars)) -> Result<()> {
        let mut state = self.state();
        change(&mut state.scalars);
        let mut buffer = self.0.scalars.write().unwrap_or_else(PoisonError::into_inner);
        self.0
            .backend
            .upload(bytemuck::cast_slice(state.scalars.words()), Out::new(&mut **buffer, DType::F32, Scalars::LEN))
    }

    /// Runs a step that will come again with other values of the same shapes: a device may start as one what it has seen
    /// before (a CUDA graph, counted in [`Device::stats`]). `work` always runs, and results have the same bits.
    ///
    /// # Errors
    /// That of `work`, or of the device.
    pub fn repeated<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (mut work, mut done) = (Some(work), None);
        let started = self.0.backend.repeated(&mut || done = work.take().map(|work| work()));
        let done = done.unwrap_or_else(|| Err(Error::graph("repeated", "the device left the step out").into()))?;
        started?;
        Ok(done)
    }

    /// Runs `f` with the scalar buffer to read.
    pub fn with_scalars<T>(&self, f: impl FnOnce(In<'_>) -> Result<T>) -> Result<T> {
        let buffer = self.0.scalars.read().unwrap_or_else(PoisonError::into_inner);
        f(In::new(&**buffer, DType::F32, Scalars::LEN))
    }

    /// Runs `f` with the scalar buffer to write.
    pub fn with_scalars_mut<T>(&self, f: impl FnOnce(Out<'_>) -> Result<T>) -> Result<T> {
        let mut buffer = self.0.scalars.write().unwrap_or_else(PoisonError::into_inner);
        f(Out::new(&mut **buffer, DType::F32, Scalars::LEN))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the first NVIDIA GPU is there, and one that kernels run on.
#[cfg(feature = "cuda")]
fn real_gpu() -> bool {
    lowrank_cuda::devices().is_ok_and(|all| all.first().is_some_and(|gpu| !gpu.simulated && gpu.usable().is_ok()))
}

#[cfg(not(all(feature = "cpu", feature = "cuda", feature = "wgpu")))]
fn compiled_out(feature: &str) -> String {
    format!(
        "this lowrank was built without the feature `{feature}`; add it with: cargo install lowrank-cli --features {feature}"
    )
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}
