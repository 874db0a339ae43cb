//! Operands of warp-level operations, barriers, fences and mbarriers.

use super::{Pred, Reg};
use crate::types::Space;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncKind {
    ShflUp,
    ShflDown,
    ShflBfly,
    ShflIdx,
    VoteAny,
    VoteAll,
    VoteUni,
    Ballot,
    MatchAny,
    MatchAll,
    ReduxAdd,
    ReduxMinS,
    ReduxMaxS,
    ReduxMinU,
    ReduxMaxU,
    ReduxAnd,
    ReduxOr,
    ReduxXor,
    BarWarp,
    Elect,
}

/// A warp-level operation that waits for the lanes of its member mask.
#[derive(Clone, Debug)]
pub(crate) struct WarpSync {
    pub kind: SyncKind,
    pub d: Reg,
    pub p: Option<Pred>,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub src_pred: (Pred, bool),
    pub members: Reg,
    /// The value compared by `match` has 64 bits.
    pub wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarRed {
    Popc,
    And,
    Or,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub id: Reg,
    pub count: Option<Reg>,
    pub wait: bool,
    pub aligned: bool,
    pub red: Option<BarRed>,
    pub src: (Pred, bool),
    pub d: Option<Reg>,
    pub dp: Option<Pred>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceKind {
    Memory,
    ProxyAsync,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarKind {
    Init,
    Inval,
    Arrive { expect: bool, drop: bool, complete: bool },
    ExpectTx,
    CompleteTx,
    TestWait { parity: bool, suspend: bool },
    PendingCount,
    CpAsyncArrive { noinc: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Mbar {
    pub kind: MbarKind,
    pub space: Space,
    pub d: Option<Reg>,
    pub dp: Option<Pred>,
    pub addr: Reg,
    pub off: i64,
    pub count: Option<Reg>,
    /// Orders memory (not `.relaxed`).
    pub orders: bool,
}
