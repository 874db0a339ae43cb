//! Operands of loads, stores, atomics and asynchronous copies.

use super::{Pred, Reg};
use crate::types::{Space, Ty};

/// How a memory access is ordered and cached, as far as checks care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Order {
    /// volatile, relaxed, acquire, release: does not race with its like.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub space: Space,
    pub addr: Reg,
    pub off: i64,
    /// Bytes of one element.
    pub size: u32,
    /// Sign-extend a loaded element from `size` to this many bits.
    pub sext: Option<u32>,
    pub regs: Box<[Reg]>,
    pub order: Order,
    /// Vector length, for alignment (`regs` leaves nothing out; `_` is a dummy register).
    pub vec: u32,
    /// A plain load that belongs to an atomic update of its cell.
    pub seed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomKind {
    Add,
    AddF16,
    AddF16x2,
    AddBf16,
    AddBf16x2,
    AddF32,
    AddF64,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
    MinS,
    MaxS,
    MinU,
    MaxU,
}

#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub kind: AtomKind,
    pub space: Space,
    pub size: u32,
    pub d: Option<Reg>,
    pub addr: Reg,
    pub off: i64,
    pub b: Reg,
    pub c: Reg,
    pub order: Order,
}

#[derive(Clone, Debug)]
pub(crate) struct CpAsync {
    pub dst: Reg,
    pub dst_off: i64,
    pub dst_space: Space,
    pub src: Reg,
    pub src_off: i64,
    pub src_space: Space,
    pub size: u32,
    pub src_size: Option<Reg>,
    pub ignore: Option<(Pred, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BulkKind {
    GlobalToShared,
    SharedToGlobal,
    SharedToCluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
}

/// `st.async` and `red.async`.
#[derive(Clone, Debug)]
pub(crate) struct AsyncUpdate {
    pub dst: (Reg, i64),
    pub vals: Box<[Reg]>,
    /// Bytes of one value.
    pub size: u32,
    pub red: Option<AtomKind>,
    pub mbar: (Reg, i64),
}

/// `cp.async.bulk` and `cp.async.bulk.tensor`.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub kind: BulkKind,
    /// Shared or global destination.
    pub dst: (Reg, i64),
    /// Source address; the tensor map for a tensor copy, in either direction.
    pub src: (Reg, i64),
    pub map: Option<(Reg, i64)>,
    pub coords: Box<[Reg]>,
    pub size: Option<Reg>,
    pub mbar: Option<(Reg, i64)>,
    pub multicast: Option<Reg>,
    pub red: Option<RedOp>,
    pub red_ty: Option<Ty>,
}
