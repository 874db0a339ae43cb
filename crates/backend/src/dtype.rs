//! Element types. Storage is bytes plus one of these tags.

use bytemuck::Pod;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE double; the reference backend and gradient checks.
    F64,
    /// IEEE single; adapters, their gradients, optimiser state, and activations by default.
    F32,
    /// The upper half of an f32; storage of frozen weights, and of activations where that was asked for.
    BF16,
    /// IEEE half; storage.
    F16,
    /// Token numbers and other indices.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }

    /// What belongs to activations of this dtype but is kept apart from them: parameters, statistics and sums. f32 for the
    /// floats of 16 bits, any other itself.
    pub const fn wide(self) -> DType {
        match self {
            DType::BF16 | DType::F16 => DType::F32,
            other => other,
        }
    }

    /// Whether arithmetic is defined on it.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::U32)
    }

    /// The name used in messages, configuration and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the host form of a [`DType`].
pub trait Element: Pod + Send + Sync + std::fmt::Debug {
    /// Its tag.
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(f64 => F64, f32 => F32, half::bf16 => BF16, half::f16 => F16, u32 => U32);
