//! From an operation's views to a kernel on the stream: checks, arguments, grid.

use std::any::Any;
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;

use bytemuck::NoUninit;
use cudarc::driver::result;
use lowrank_backend::{DType, Error, In, Mode, Result};
use lowrank_kernels::Module;
use lowrank_kernels::launch::Launch as Planned;

use crate::Cuda;
use crate::memory::CudaBuffer;

/// Blocks of a grid's first dimension, at most.
const GRID: u32 = (1 << 31) - 1;

/// The code of a storage type in kernels: the enum of `storage.cuh`.
pub(crate) fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::U32 => 3,
        DType::F64 => unreachable!("refused with its view"),
    }
}

/// 1 for Add.
pub(crate) fn add(mode: Mode) -> u32 {
    u32::from(mode == Mode::Add)
}

/// The product of sizes, unless it overflows.
pub(crate) fn volume(op: &'static str, sizes: &[usize]) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    product.ok_or_else(|| Error::shape(op, format!("sizes {sizes:?} overflow")))
}

impl Cuda {
    /// Where a view starts on the device, if it is this handle's and its dtype exists here.
    pub(crate) fn address(&self, op: &'static str, what: &str, x: In<'_>) -> Result<u64> {
        let any: &dyn Any = x.buffer;
        let foreign = || Error::DeviceMismatch { op, left: self.context.name(), right: "another device".to_string() };
        let buffer = any.downcast_ref::<CudaBuffer>().filter(|b| b.of(&self.stream)).ok_or_else(foreign)?;
        if x.dtype == DType::F64 {
            let what = format!("f64 ({what}): kernels compute in single precision; use the reference device");
            return Err(Error::unsupported(op, self.context.name(), what));
        }
        x.expect(op, what, x.len)?;
        Ok(buffer.address() + (x.offset * x.dtype.size()) as u64)
    }

    /// Where a view starts that has `len` elements of the only dtype that the operation takes.
    pub(crate) fn expect(&self, op: &'static str, what: &str, x: In<'_>, dtype: DType, len: usize) -> Result<u64> {
        let at = self.address(op, what, x)?;
        if x.dtype != dtype {
            return Err(Error::dtype(op, what, x.dtype, dtype.name()));
        }
        x.expect(op, what, len)?;
        Ok(at)
    }

    /// Where a view starts that has `len` elements of a float dtype.
    pub(crate) fn expect_float(&self, op: &'static str, what: &str, x: In<'_>, len: usize) -> Result<u64> {
        let at = self.address(op, what, x)?;
        if !x.dtype.is_float() {
            return Err(Error::dtype(op, what, x.dtype, "f32, bf16 or f16"));
        }
        x.expect(op, what, len)?;
        Ok(at)
    }

    /// An f32 intermediate.
    pub(crate) fn scratch(&self, len: usize) -> Result<CudaBuffer> {
        self.stream.alloc(len.saturating_mul(4))
    }

    /// Puts launches whose geometry was planned in `kernels/` on the stream.
    pub(crate) fn run_planned(&self, op: &'static str, launches: &[Planned]) -> Result<()> {
        for l in launches {
            let missing = || self.context.error(format!("there is no kernel file {}", l.module));
            let module = Module::named(l.module).ok_or_else(missing)?;
            let args = vec![l.params.as_ptr() as *mut c_void];
            // SAFETY: the struct is the kernel's only parameter, and outlives the call.
            unsafe { self.start(op, module, &l.entry, l.grid, l.block, l.shared, args)? };
        }
        Ok(())
    }

    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// `args` point to the kernel's parameters, in their order; addresses in them are of live buffers of this stream.
    #[allow(clippy::too_many_arguments)]
    unsafe fn start(
        &self,
        op: &'static str,
        module: &Module,
        entry: &str,
        [x, y, z]: [u32; 3],
        threads: u32,
        shared: u32,
        mut args: Vec<*mut c_void>,
    ) -> Result<()> {
        let f = self.context.function(module, entry, shared)?;
        self.context.bind()?;
        match &self.stream.recordings().open {
            Some(recording) => recording.count(),
            None => _ = self.counters.launches.fetch_add(1, Relaxed),
        }
        // SAFETY: as the caller promises; memory is freed behind the kernel on the same stream.
        unsafe { result::launch_kernel(f.raw, (x, y, z), (threads, 1, 1), shared, self.stream.raw, &mut args) }
            .map_err(|e| self.context.failed(&format!("{op} ({entry})"), e))
    }

    /// A call of a kernel, to be given its arguments in the order of its parameters.
    pub(crate) fn launch(&self, op: &'static str, module: &'static Module, entry: &'static str) -> Launch<'_> {
        Launch { cuda: self, op, module, entry, words: Vec::with_capacity(24), starts: Vec::with_capacity(16) }
    }
}

/// One call of a kernel, being put together.
pub(crate) struct Launch<'a> {
    cuda: &'a Cuda,
    op: &'static str,
    module: &'static Module,
    entry: &'static str,
    /// The arguments' bytes, each from a multiple of 8 on.
    words: Vec<u64>,
    starts: Vec<usize>,
}

impl Launch<'_> {
    /// Appends a parameter of any plain type.
    pub fn arg<T: NoUninit>(&mut self, value: &T) -> &mut Self {
        let bytes = bytemuck::bytes_of(value);
        self.starts.push(self.words.len());
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.words.push(u64::from_le_bytes(word));
        }
        self
    }

    /// Appends addresses, sizes or distances.
    pub fn u64s(&mut self, values: &[u64]) -> &mut Self {
        for value in values {
            self.arg(value);
        }
        self
    }

    /// Appends numbers of elements.
    pub fn sizes(&mut self, values: &[usize]) -> &mut Self {
        for &value in values {
            self.arg(&(value as u64));
        }
        self
    }

    /// Appends codes and flags.
    pub fn u32s(&mut self, values: &[u32]) -> &mut Self {
        for value in values {
            self.arg(value);
        }
        self
    }

    /// Appends a parameter that is a struct, by its bytes.
    pub fn words(&mut self, words: &[u64]) -> &mut Self {
        self.starts.push(self.words.len());
        self.words.extend_from_slice(words);
        self
    }

    /// Appends constants, rounded once.
    pub fn f32s(&mut self, values: &[f64]) -> &mut Self {
        for &value in values {
            self.arg(&(value as f32));
        }
        self
    }

    /// Puts it on the stream: `blocks` blocks of `threads` threads.
    pub fn run(&mut self, blocks: usize, threads: u32) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let fits = u32::try_from(blocks).ok().filter(|&n| n <= GRID);
        let too_large = || Error::invalid(self.op, format!("a grid of {blocks} blocks is too large"));
        let grid = [fits.ok_or_else(too_large)?, 1, 1];
        let words = self.words.as_ptr();
        // SAFETY: each start is an index into words.
        let args: Vec<*mut c_void> = self.starts.iter().map(|&i| unsafe { words.add(i) } as *mut c_void).collect();
        // SAFETY: the arguments are those of the kernel, and are not touched before the call returns.
        unsafe { self.cuda.start(self.op, self.module, self.entry, grid, threads, 0, args) }
    }

    /// One thread per element, 256 in a block.
    pub fn run_elements(&mut self, len: usize) -> Result<()> {
        self.run(len.div_ceil(256), 256)
    }
}
