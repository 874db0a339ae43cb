//! From an operation's views to a kernel on the stream: checks, arguments, grid.

use std::any::Any;
use std::sync::atomic::Ordering::Relaxed;

use bytemuck::NoUninit;
use lowrank_backend::{DType, Error, In, Mode, Result};
use lowrank_kernels::Module;
use lowrank_kernels::launch::Launch as Planned;

use crate::Cuda;
use crate::graph::Call;
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

/// The kernel for activations of a dtype: of f32, or of bf16.
pub(crate) fn entry(dtype: DType, [of_f32, of_bf16]: [&'static str; 2]) -> &'static str {
    if dtype == DType::BF16 { of_bf16 } else { of_f32 }
}

/// Up to 8 bytes as a number with these bytes.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
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

    /// Where a view of activations starts: `len` elements of f32 or bf16.
    pub(crate) fn activation(&self, op: &'static str, what: &str, x: In<'_>, len: usize) -> Result<u64> {
        let at = self.address(op, what, x)?;
        if !matches!(x.dtype, DType::F32 | DType::BF16) {
            return Err(Error::dtype(op, what, x.dtype, "f32 or bf16"));
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
        self.memory(len.saturating_mul(4))
    }

    /// Puts launches whose geometry was planned in `kernels/` on the stream.
    pub(crate) fn run_planned(&self, op: &'static str, launches: &[Planned]) -> Result<()> {
        for l in launches {
            let missing = || self.context.error(format!("there is no kernel file {}", l.module));
            let module = Module::named(l.module).ok_or_else(missing)?;
            let function = self.context.function(module, &l.entry, l.shared)?;
            let (entry, grid, threads, shared) = (l.entry.clone(), l.grid, l.block, l.shared);
            // The struct is the kernel's only parameter.
            let words = l.params.chunks(8).map(word).collect();
            let call = Call { op, entry, function, grid, threads, shared, words, starts: vec![0] };
            // SAFETY: planned for this kernel over addresses of live buffers.
            unsafe { self.start(call)? };
        }
        Ok(())
    }

    /// Puts a kernel on the stream, or with the others of a step that is being put together.
    ///
    /// # Safety
    /// The arguments are the kernel's, in their order; addresses in them are of live buffers of this stream.
    unsafe fn start(&self, call: Call) -> Result<()> {
        self.counters.launches.fetch_add(1, Relaxed);
        let Some(call) = self.hold(call)? else { return Ok(()) };
        self.context.bind()?;
        // SAFETY: as the caller promises; memory is freed behind the kernel on the same stream.
        unsafe { call.start(&self.context, self.stream.raw) }
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
        self.words.extend(bytes.chunks(8).map(word));
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
        let call = self.call(grid, threads)?;
        // SAFETY: the arguments are those of the kernel, over addresses of live buffers.
        unsafe { self.cuda.start(call) }
    }

    /// The kernel with its arguments, not started.
    pub fn call(&mut self, grid: [u32; 3], threads: u32) -> Result<Call> {
        let function = self.cuda.context.function(self.module, self.entry, 0)?;
        let (words, starts) = (std::mem::take(&mut self.words), std::mem::take(&mut self.starts));
        Ok(Call { op: self.op, entry: self.entry.to_string(), function, grid, threads, shared: 0, words, starts })
    }

    /// One thread per element, 256 in a block.
    pub fn run_elements(&mut self, len: usize) -> Result<()> {
        self.run(len.div_ceil(256), 256)
    }
}
