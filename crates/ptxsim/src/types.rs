//! The fundamental types of PTX and the state spaces.

/// A PTX type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
}

impl Ty {
    /// Reads a type name without its dot.
    pub fn parse(s: &str) -> Option<Ty> {
        Some(match s {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::BF16,
            "bf16x2" => Ty::BF16x2,
            "tf32" => Ty::TF32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub fn size(self) -> u32 {
        match self {
            Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::BF16 => 2,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
            Ty::B128 => 16,
            _ => 4,
        }
    }

    pub fn bits(self) -> u32 {
        self.size() * 8
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn is_int(self) -> bool {
        self.signed() || matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 | Ty::TF32 | Ty::F32 | Ty::F64)
    }
}

/// A state space named by an instruction; `Generic` when none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// Generic addresses: shared, local and param memory appear in windows far from every global allocation.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
/// What the address of function number `i` of a module looks like; nothing can be read there.
pub(crate) fn function_address(i: usize) -> u64 {
    (5 << 40) + 16 * i as u64
}
/// First address of global memory.
pub(crate) const GLOBAL_BASE: u64 = 0x7f00_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 1 << 40;
/// A shared address of another CTA of the cluster is `(rank + 1) << CLUSTER_SHIFT | offset`; rank field 0 is one's own.
pub(crate) const CLUSTER_SHIFT: u32 = 24;

/// The space of a generic address and the address inside it.
pub(crate) fn resolve(addr: u64) -> (Space, u64) {
    match addr / WINDOW {
        1 => (Space::Shared, addr - SHARED_WINDOW),
        2 => (Space::Local, addr - LOCAL_WINDOW),
        3 => (Space::Param, addr - PARAM_WINDOW),
        _ => (Space::Global, addr),
    }
}
