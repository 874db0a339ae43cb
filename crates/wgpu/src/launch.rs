//! From an operation's views to a kernel in the batch: checks, bindings, parameters, grid.

use std::any::Any;

use lowrank_backend::{DType, Error, In, Mode, Out, Precision, Result};
use lowrank_shaders::Shader;

use crate::Wgpu;
use crate::pipeline::{Constants, PARAMS};
use crate::pool::{Block, WgpuBuffer};
use crate::queue::Binding;

/// Workgroups in a row of the grid, at most.
const GRID: u64 = 65535;

/// The code of a storage type in kernels.
pub(crate) fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::U32 => 3,
        DType::F64 => unreachable!("refused when the view is bound"),
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

/// A number as a kernel's u32.
pub(crate) fn word(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::invalid(op, format!("{n} does not fit the 32-bit indices of kernels")))
}

/// One call of a kernel, being put together. Outputs come first, then inputs, in the order of the file's bindings.
pub(crate) struct Launch<'a> {
    wgpu: &'a Wgpu,
    op: &'static str,
    shader: &'static Shader,
    entry: &'static str,
    constants: Constants,
    params: Vec<u8>,
    bindings: Vec<Binding<'a>>,
    outputs: usize,
}

impl Wgpu {
    pub(crate) fn launch<'a>(&'a self, op: &'static str, shader: &'static Shader, entry: &'static str) -> Launch<'a> {
        #[cfg(test)]
        let shader = self.mutant.filter(|m| m.0 == shader.name).map_or(shader, |m| m.1);
        Launch {
            wgpu: self,
            op,
            shader,
            entry,
            constants: Vec::new(),
            params: Vec::new(),
            bindings: Vec::new(),
            outputs: 0,
        }
    }

    /// The block of a view, if it is this device's and arithmetic or storage of its dtype exists here.
    pub(crate) fn block<'a>(&self, op: &'static str, what: &str, x: In<'a>) -> Result<&'a Block> {
        let any: &dyn Any = x.buffer;
        let foreign = || Error::DeviceMismatch { op, left: self.context.name(), right: "another device".to_string() };
        let buffer = any.downcast_ref::<WgpuBuffer>().filter(|b| b.of(&self.pool)).ok_or_else(foreign)?;
        if x.dtype == DType::F64 {
            let what = format!("f64 ({what}): kernels have no double precision; use the reference device");
            return Err(Error::unsupported(op, self.context.name(), what));
        }
        x.expect(op, what, x.len)?;
        Ok(buffer.block())
    }

    /// Fails unless the view has `len` elements of the only dtype that the operation takes.
    pub(crate) fn expect(&self, op: &'static str, what: &str, x: In<'_>, dtype: DType, len: usize) -> Result<()> {
        self.block(op, what, x)?;
        if x.dtype != dtype {
            return Err(Error::dtype(op, what, x.dtype, dtype.name()));
        }
        x.expect(op, what, len)
    }

    /// Fails unless the view has `len` elements of a float dtype.
    pub(crate) fn expect_float(&self, op: &'static str, what: &str, x: In<'_>, len: usize) -> Result<()> {
        self.block(op, what, x)?;
        if !x.dtype.is_float() {
            return Err(Error::dtype(op, what, x.dtype, "f32, bf16 or f16"));
        }
        x.expect(op, what, len)
    }

    /// Products are computed in f32 only.
    pub(crate) fn precision(&self, op: &'static str, precision: Precision) -> Result<()> {
        match precision {
            Precision::Full => Ok(()),
            other => Err(Error::unsupported(op, self.context.name(), format!("precision {}", other.name()))),
        }
    }

    /// The largest piece of a buffer that can be bound, less what alignment may cost.
    pub(crate) fn max_binding(&self) -> u64 {
        self.max_binding - 512
    }
}

impl<'a> Launch<'a> {
    fn bind(&mut self, what: &str, x: In<'a>) -> Result<u32> {
        let block = self.wgpu.block(self.op, what, x)?;
        let size = x.dtype.size() as u64;
        let (start, end) = (x.offset as u64 * size, (x.offset + x.len) as u64 * size);
        let align = u64::from(self.wgpu.context.limits.min_storage_buffer_offset_alignment).max(16);
        let offset = (start / align * align).min(block.capacity - 16);
        let end = end.max(offset + 16).next_multiple_of(16);
        if end - offset > self.wgpu.max_binding {
            let what = format!(
                "{what} of {} bytes: kernels see at most {} bytes of a buffer at once here",
                x.len as u64 * size,
                self.wgpu.max_binding
            );
            return Err(Error::unsupported(self.op, self.wgpu.context.name(), what));
        }
        self.bindings.push(Binding { block, offset, size: end - offset });
        Ok(((start - offset) / size) as u32)
    }

    /// Binds an output; returns where it starts, in elements.
    pub fn output(&mut self, what: &str, y: &'a Out<'_>) -> Result<u32> {
        debug_assert_eq!(self.outputs, self.bindings.len());
        self.outputs += 1;
        self.bind(what, y.as_in())
    }

    /// Binds an input; returns where it starts, in elements.
    pub fn input(&mut self, what: &str, x: In<'a>) -> Result<u32> {
        self.bind(what, x)
    }

    /// Binds an input that may be absent.
    pub fn maybe(&mut self, what: &str, x: Option<In<'a>>) -> Result<u32> {
        match x {
            Some(x) => self.bind(what, x),
            None => {
                self.bindings.push(self.wgpu.nothing(0));
                Ok(0)
            }
        }
    }

    /// Binds an output that may be absent.
    pub fn maybe_output(&mut self, what: &str, y: Option<&'a Out<'_>>) -> Result<u32> {
        self.maybe_output_view(what, y.map(Out::as_in))
    }

    /// The same for a part of an output, which the caller holds exclusively.
    pub fn maybe_output_view(&mut self, what: &str, y: Option<In<'a>>) -> Result<u32> {
        match y {
            Some(y) => {
                self.outputs += 1;
                self.bind(what, y)
            }
            None => {
                self.outputs += 1;
                self.bindings.push(self.wgpu.nothing(self.outputs));
                Ok(0)
            }
        }
    }

    /// Sets an `override` constant, also once more.
    pub fn constant(&mut self, name: &'static str, value: u32) -> &mut Self {
        self.constants.retain(|c| c.0 != name);
        self.constants.push((name, value));
        self
    }

    /// Appends parameters.
    pub fn u32s(&mut self, values: &[u32]) -> &mut Self {
        self.params.extend_from_slice(bytemuck::cast_slice(values));
        self
    }

    /// Appends a number of elements or rows.
    pub fn sizes(&mut self, values: &[usize]) -> Result<&mut Self> {
        for &value in values {
            let value = word(self.op, value)?;
            self.u32s(&[value]);
        }
        Ok(self)
    }

    /// Appends parameters.
    pub fn f32s(&mut self, values: &[f64]) -> &mut Self {
        for &value in values {
            self.params.extend_from_slice(&(value as f32).to_le_bytes());
        }
        self
    }

    /// Puts it into the batch with a grid of three dimensions.
    pub fn run_grid(&mut self, groups: [u64; 3]) -> Result<()> {
        if groups.contains(&0) {
            return Ok(());
        }
        if groups.iter().any(|&n| n > GRID) {
            return Err(Error::invalid(self.op, format!("a grid of {groups:?} workgroups is too large")));
        }
        debug_assert!(self.params.len() as u64 <= PARAMS);
        let context = &self.wgpu.context;
        context.check()?;
        let inputs = self.bindings.len() - self.outputs;
        self.constants.sort_unstable();
        let pipeline = context.pipeline(self.shader, self.entry, &self.constants, self.outputs, inputs)?;
        self.wgpu.count_launch();
        let mut queue = self.wgpu.queue();
        queue.dispatch(&pipeline, &self.params, &self.bindings, groups.map(|n| n as u32));
        Ok(())
    }

    /// The same with `groups` workgroups in a row, folded to two dimensions where there are too many.
    pub fn run(&mut self, groups: u64) -> Result<()> {
        let rows = groups.div_ceil(GRID);
        if rows > GRID {
            return Err(Error::invalid(self.op, format!("a grid of {groups} workgroups is too large")));
        }
        self.run_grid([groups.div_ceil(rows.max(1)), rows.max(1).min(groups), 1])
    }

    /// One invocation per word of an output with 256 in a workgroup.
    pub fn run_elements(&mut self, y: &Out<'_>) -> Result<()> {
        let words = match y.dtype.size() {
            2 => (y.offset % 2 + y.len).div_ceil(2),
            _ => y.len,
        };
        self.run((words as u64).div_ceil(256))
    }
}
