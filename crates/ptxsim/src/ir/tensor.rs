//! Operands of the tensor-core opcodes and their matrix loads.

use super::{Pred, Reg};
use crate::types::Space;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatTy {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    F64,
    E4m3,
    E5m2,
    S4,
    U4,
    B1,
}

impl MatTy {
    /// Bits of one element in a fragment.
    pub fn bits(self) -> u32 {
        match self {
            MatTy::F64 => 64,
            MatTy::Tf32 => 32,
            MatTy::F16 | MatTy::Bf16 => 16,
            MatTy::S8 | MatTy::U8 | MatTy::E4m3 | MatTy::E5m2 => 8,
            MatTy::S4 | MatTy::U4 => 4,
            MatTy::B1 => 1,
        }
    }
    pub fn is_int(self) -> bool {
        matches!(self, MatTy::S8 | MatTy::U8 | MatTy::S4 | MatTy::U4 | MatTy::B1)
    }
    pub fn is_f8(self) -> bool {
        matches!(self, MatTy::E4m3 | MatTy::E5m2)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccTy {
    F32,
    F16,
    S32,
    F64,
}

/// `mma.sync` in the form m16n8k*.
#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub a_ty: MatTy,
    pub b_ty: MatTy,
    pub acc: AccTy,
    pub c_acc: AccTy,
    pub sat: bool,
    /// Binary matrices: combine with `and` instead of `xor` before counting.
    pub and: bool,
    pub d: Box<[Reg]>,
    pub a: Box<[Reg]>,
    pub b: Box<[Reg]>,
    pub c: Box<[Reg]>,
    /// `wmma.mma`: fragments in this crate's own layout, a and b always row-major in it.
    pub wmma: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frag {
    A,
    B,
    C,
}

/// `wmma.load` and `wmma.store`.
#[derive(Clone, Debug)]
pub(crate) struct Wmma {
    pub frag: Frag,
    pub store: bool,
    pub col: bool,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Bits of an element in memory and in the fragment.
    pub bits: u32,
    pub space: Space,
    pub addr: Reg,
    pub off: i64,
    pub stride: Option<Reg>,
    pub regs: Box<[Reg]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub num: u32,
    pub trans: bool,
    pub store: bool,
    pub addr: Reg,
    pub off: i64,
    pub space: Space,
    pub regs: Box<[Reg]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub n: u32,
    pub k: u32,
    pub ty: MatTy,
    pub b_ty: MatTy,
    pub acc: AccTy,
    pub d: Box<[Reg]>,
    /// Four registers, or one descriptor.
    pub a: Box<[Reg]>,
    pub a_desc: bool,
    pub b: Reg,
    pub scale_d: (Pred, bool),
    pub neg_a: bool,
    pub neg_b: bool,
    pub trans_a: bool,
    pub trans_b: bool,
}
