//! The decoded form that runs: registers are indices, opcodes are chosen, addresses of variables are constants.
//!
//! An operand index below `Kernel::nregs` is a register of the warp, one above it a constant, so that every operand
//! is 32 lanes of memory and the inner loops have no cases. Arithmetic is a function pointer over 32 lanes, picked
//! while decoding. Predicates live apart, as one bit a lane.

mod memory;
mod sync;
mod tensor;

pub(crate) use memory::*;
pub(crate) use sync::*;
pub(crate) use tensor::*;

use crate::ast::Limits;
use crate::types::Space;

/// One value a lane.
pub(crate) type Lanes = [u64; 32];
/// Register or constant.
pub(crate) type Reg = u32;
/// Predicate register; 0 is never, 1 is always.
pub(crate) type Pred = u32;
pub(crate) const P_FALSE: Pred = 0;
pub(crate) const P_TRUE: Pred = 1;

pub(crate) type F1 = fn(&Lanes, &mut Lanes);
pub(crate) type F2 = fn(&Lanes, &Lanes, &mut Lanes);
pub(crate) type F3 = fn(&Lanes, &Lanes, &Lanes, &mut Lanes);
pub(crate) type FCmp = fn(&Lanes, &Lanes) -> u32;

#[derive(Clone, Copy)]
pub(crate) enum Alu {
    One(F1),
    Two(F2),
    Three(F3),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    LaneMask(u8),
    Clock,
    GlobalTimer,
    SmId,
    NsmId,
    GridId,
    DynSmem,
    TotalSmem,
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    /// Low and high half of the address of the workspace of a cooperative launch.
    Workspace {
        high: bool,
    },
    ReservedSmem {
        end: bool,
    },
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryKind {
    Add,
    Sub,
    MadLo,
    MadHi,
}

#[derive(Clone)]
pub(crate) enum Op {
    Nop,
    A1(F1, Reg, Reg),
    A2(F2, Reg, Reg, Reg),
    /// Clears a bit field, to be filled next: what was in the word before, even if nobody wrote it, matters no more.
    Clear(F2, Reg, Reg, Reg),
    A3(F3, Reg, Reg, Reg, Reg),
    Mov(Reg, Reg),
    Lop3 {
        d: Reg,
        p: Option<(Pred, BoolOp, Pred, bool)>,
        s: [Reg; 3],
        lut: u8,
    },
    Selp {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Pred,
        neg: bool,
    },
    Setp {
        f: FCmp,
        d: Pred,
        e: Option<Pred>,
        a: Reg,
        b: Reg,
        c: Option<(Pred, bool)>,
        comb: BoolOp,
    },
    SetVal {
        f: FCmp,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Option<(Pred, bool)>,
        comb: BoolOp,
        one: u64,
    },
    /// Two halves compared apart: value (f16x2 `set`) or predicates (f16x2 `setp`).
    Set2 {
        f: FCmp,
        d: Reg,
        a: Reg,
        b: Reg,
        one: u64,
    },
    Setp2 {
        f: FCmp,
        lo: Pred,
        hi: Pred,
        a: Reg,
        b: Reg,
        c: Option<(Pred, bool)>,
        comb: BoolOp,
    },
    Pred2 {
        op: BoolOp,
        d: Pred,
        a: (Pred, bool),
        b: (Pred, bool),
    },
    Carry {
        kind: CarryKind,
        wide: bool,
        signed: bool,
        d: Reg,
        s: [Reg; 3],
        cin: bool,
        cout: bool,
    },
    Special {
        d: Reg,
        s: Special,
    },
    Pack {
        d: Reg,
        s: Box<[Reg]>,
        bits: u32,
    },
    Unpack {
        d: Box<[Reg]>,
        a: Reg,
        bits: u32,
    },
    IsSpace {
        d: Pred,
        a: Reg,
        space: Space,
    },
    ActiveMask(Reg),
    /// Sets a predicate if the launch asked for clusters.
    ExplicitCluster(Pred),
    Ld(Box<Access>),
    St(Box<Access>),
    Atom(Box<Atom>),
    Bra(u32),
    Brx {
        idx: Reg,
        targets: Box<[u32]>,
    },
    Exit,
    Trap(Box<str>),
    Sync(Box<WarpSync>),
    Bar(Box<Bar>),
    ClusterArrive,
    ClusterWait,
    Fence(FenceKind),
    CpAsync(Box<CpAsync>),
    CpCommit,
    CpWait(u32),
    CpWaitAll,
    Matrix(Box<Matrix>),
    MovMatrix {
        d: Reg,
        a: Reg,
    },
    Mma(Box<Mma>),
    Wmma(Box<Wmma>),
    Mbar(Box<Mbar>),
    Bulk(Box<Bulk>),
    Async(Box<AsyncUpdate>),
    BulkCommit,
    BulkWait(u32),
    WgFence,
    WgCommit,
    WgWait(u32),
    Wgmma(Box<Wgmma>),
    Mapa {
        d: Reg,
        a: Reg,
        rank: Reg,
        generic: bool,
    },
    GetCtaRank {
        d: Reg,
        a: Reg,
        generic: bool,
    },
}

#[derive(Clone)]
pub(crate) struct Inst {
    pub line: u32,
    /// Index into `Kernel::names`, for counting.
    pub name: u32,
    pub guard: Pred,
    pub guard_neg: bool,
    pub op: Op,
}

/// A constant operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Const {
    Int(u64),
    /// Address of module variable `.0` plus an offset.
    Global(usize, i64),
    /// Address of the dynamic shared memory plus an offset.
    Dynamic(i64),
}

#[derive(Clone, Debug)]
pub(crate) struct KernelParam {
    pub offset: u32,
    pub size: u32,
}

/// A kernel ready to run.
pub(crate) struct Kernel {
    pub name: String,
    pub insts: Vec<Inst>,
    /// Registers each instruction names, if the kernel uses `wgmma`; empty otherwise.
    pub regs_of: Vec<Box<[Reg]>>,
    /// Registers of `wgmma` operands that each instruction writes, if the kernel uses `wgmma`; empty otherwise.
    pub wg_writes: Vec<Box<[Reg]>>,
    pub nregs: u32,
    pub npreds: u32,
    pub consts: Vec<Const>,
    pub names: Vec<String>,
    pub params: Vec<KernelParam>,
    pub param_bytes: u32,
    pub shared_bytes: u32,
    pub shared_align: u32,
    /// The kernel asks for the shared memory that a driver reserves for itself.
    pub reserved: bool,
    pub local_bytes: u32,
    pub limits: Limits,
    /// CTAs may talk to each other: they run one after the other, in one memory.
    pub coherent: bool,
}
