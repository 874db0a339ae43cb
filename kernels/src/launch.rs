//! What the host needs to start a kernel: the same for the driver and for ptxsim.

/// Element types, by the numbers the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// IEEE single.
    F32 = 0,
    /// The upper half of an f32.
    Bf16 = 1,
    /// IEEE half.
    F16 = 2,
}

impl Type {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        if matches!(self, Type::F32) { 4 } else { 2 }
    }
}

/// An operand: a device address and the type of what lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Device address.
    pub at: u64,
    /// Element type.
    pub ty: Type,
}

impl Operand {
    /// An operand.
    pub const fn new(at: u64, ty: Type) -> Self {
        Operand { at, ty }
    }
}

/// Inverted dropout for kernels that recompute masks. `None` where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Address of the per-step scalars (f32); word 0 is the step.
    pub scalars: u64,
    /// Key.
    pub seed: u64,
    /// Dropout site.
    pub stream: u32,
    /// An element is kept if its Philox word is at least this.
    pub threshold: u32,
    /// What kept elements are multiplied with.
    pub keep: f32,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Kernel file: `ptx/<module>.ptx`.
    pub module: &'static str,
    /// Kernel.
    pub entry: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The kernel's only parameter, a struct.
    pub params: Vec<u8>,
}

/// Fields of a C struct, each at its natural alignment.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    fn put(mut self, bytes: &[u8]) -> Self {
        self.0.resize(self.0.len().next_multiple_of(bytes.len()), 0);
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn ptr(self, v: u64) -> Self {
        self.put(&v.to_le_bytes())
    }

    pub(crate) fn u32(self, v: u32) -> Self {
        self.put(&v.to_le_bytes())
    }

    pub(crate) fn u32s<const N: usize>(self, v: [u32; N]) -> Self {
        v.into_iter().fold(self, Fields::u32)
    }

    pub(crate) fn f32(self, v: f32) -> Self {
        self.put(&v.to_le_bytes())
    }

    /// `struct Dropout` of philox.cuh; whether there is one is told by the address of the scalars.
    pub(crate) fn dropout(self, v: Option<Dropout>) -> Self {
        let d = v.unwrap_or(Dropout { scalars: 0, seed: 0, stream: 0, threshold: 0, keep: 0.0 });
        self.u32s([d.seed as u32, (d.seed >> 32) as u32, d.stream, d.threshold]).f32(d.keep)
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }

    /// The struct, padded to its alignment of 8.
    pub(crate) fn done(self) -> Vec<u8> {
        self.pad().0
    }
}

/// `v` as a size that kernels count in 32 bits.
///
/// # Errors
/// What is too large, by name.
pub(crate) fn size(what: &'static str, v: usize) -> Result<u32, TooLarge> {
    if v <= i32::MAX as usize { Ok(v as u32) } else { Err(TooLarge { what, size: v }) }
}

/// A size beyond what a kernel can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The size's name.
    pub what: &'static str,
    /// The size.
    pub size: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} is more than a kernel can count", self.what, self.size)
    }
}

impl std::error::Error for TooLarge {}
