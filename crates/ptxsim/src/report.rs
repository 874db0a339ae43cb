//! What a run found: faults and suspicions with kernel, line and thread, and the counts of the performance figure.

use std::collections::BTreeMap;
use std::fmt;

/// The class of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// An access outside every live allocation, or outside shared, local or param memory.
    OutOfBounds,
    /// An address that is no multiple of the access size.
    Misaligned,
    /// A value that nobody ever wrote decides a branch, an address or the contents of global memory.
    Uninitialised,
    /// Two accesses to one cell, at least one a write, with nothing that orders them; within a CTA or cluster.
    Race,
    /// The same between CTAs.
    RaceBetweenCtas,
    /// An access to the source or destination of an asynchronous copy that has not completed.
    InFlight,
    /// Shared memory written by plain stores is read by the async proxy without `fence.proxy.async`.
    MissingProxyFence,
    /// `bar.sync` reached by a part of a warp.
    DivergentBarrier,
    /// No thread can go on.
    Deadlock,
    /// The kernel stopped itself (`trap`, failed assertion).
    Trap,
    /// More instructions than the configured limit.
    StepLimit,
    /// An instruction used against its rules (mbarrier never initialised, lanes missing in `mma.sync`, …).
    Misuse,
}

impl FindingKind {
    /// True if the launch stops at such a finding.
    pub fn is_fatal(self) -> bool {
        use FindingKind as K;
        matches!(self, K::OutOfBounds | K::Misaligned | K::Deadlock | K::Trap | K::StepLimit | K::Misuse)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The class.
    pub kind: FindingKind,
    /// Name of the kernel.
    pub kernel: String,
    /// Line in the PTX text.
    pub line: u32,
    /// `%ctaid` of the thread.
    pub cta: [u32; 3],
    /// `%tid` of the thread.
    pub thread: [u32; 3],
    /// What happened.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([cx, cy, cz], [x, y, z]) = (self.cta, self.thread);
        write!(
            f,
            "{:?}: kernel {}, line {}, block ({cx},{cy},{cz}), thread ({x},{y},{z}): {}",
            self.kind, self.kernel, self.line, self.message
        )
    }
}

/// Deterministic work counts of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions executed by warps, and by lanes, per opcode.
    pub instructions: BTreeMap<String, (u64, u64)>,
    /// Warp-wide global loads and stores.
    pub global_accesses: u64,
    /// 32-byte sectors they touched.
    pub global_sectors: u64,
    /// 128-byte lines they touched.
    pub global_lines: u64,
    /// Warp-wide shared loads and stores.
    pub shared_accesses: u64,
    /// Extra passes through shared memory because lanes met in one bank.
    pub bank_conflicts: u64,
}

impl Counters {
    /// Instructions executed by warps.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.values().map(|v| v.0).sum()
    }
    /// Instructions executed by lanes.
    pub fn lane_instructions(&self) -> u64 {
        self.instructions.values().map(|v| v.1).sum()
    }
    pub(crate) fn add(&mut self, o: &Counters) {
        for (k, v) in &o.instructions {
            let e = self.instructions.entry(k.clone()).or_default();
            e.0 += v.0;
            e.1 += v.1;
        }
        self.global_accesses += o.global_accesses;
        self.global_sectors += o.global_sectors;
        self.global_lines += o.global_lines;
        self.shared_accesses += o.shared_accesses;
        self.bank_conflicts += o.bank_conflicts;
    }
}

/// Everything a launch found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Faults in CTA order; repeats of one fault at one line are left out.
    pub findings: Vec<Finding>,
    /// Work done.
    pub counters: Counters,
}

impl Report {
    /// True if nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
    /// True if some finding is of this kind.
    pub fn has(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|f| f.kind == kind)
    }
    /// The finding that stopped the launch, if one did.
    pub fn fatal(&self) -> Option<&Finding> {
        self.findings.iter().find(|f| f.kind.is_fatal())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return writeln!(f, "clean");
        }
        self.findings.iter().try_for_each(|x| writeln!(f, "{x}"))
    }
}
