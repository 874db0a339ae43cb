//! Execution of one unit: a CTA, or all CTAs of a cluster.

mod access;
mod atomics;
mod barrier;
mod bulk;
mod copy;
mod count;
mod hb;
mod ldst;
mod matrix;
mod mbarrier;
mod mma;
mod mma_exact;
mod run;
mod shared;
mod step;
mod tensormap;
mod values;
mod warp_ops;
mod wgmma;

pub(crate) use hb::lanes;
pub use tensormap::{Swizzle, TensorMap};

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::AtomicU32;

use crate::ir::*;
use crate::mem::shadow::Cells;
use crate::mem::view::View;
use crate::report::{Counters, Finding, FindingKind};

/// Findings one unit keeps; a broken kernel would fill memory otherwise.
const MAX_FINDINGS: usize = 64;

/// Everything about a launch that its units share.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub consts: Vec<Lanes>,
    pub params: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic: u32,
    /// Bytes that a CTA may address.
    pub shared_len: usize,
    /// Bytes that the program asked for.
    pub total_shared: usize,
    pub reserved_at: usize,
    pub explicit_cluster: bool,
    pub races: bool,
    pub count: bool,
    pub step_limit: u64,
    /// Address of a counter that cooperative groups synchronise the grid with.
    pub workspace: u64,
    /// The first unit that ended in a fatal finding; units behind it need not go on.
    pub stopped: AtomicU32,
}

/// The error that ends a unit; the finding is already noted.
pub(crate) struct Stop;
pub(crate) type Run<T> = Result<T, Stop>;

/// Why a group of lanes does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At a warp-level instruction, waiting for the other lanes of its mask.
    Lanes,
    /// At CTA barrier `id`, until its generation passes.
    Barrier {
        id: usize,
        generation: u64,
    },
    /// At `barrier.cluster.wait`.
    Cluster {
        generation: u64,
    },
}

/// Lanes of a warp that run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub state: State,
}

pub(crate) struct CpOp {
    lane: u8,
    dst: u32,
    src: u64,
    bytes: u8,
    size: u8,
    pc: u32,
}

/// Work of `wgmma` that runs when it is waited for.
pub(crate) struct WgOp {
    pc: u32,
    a: Option<Vec<Lanes>>,
    desc_a: u64,
    desc_b: u64,
    scale_d: bool,
}

pub(crate) struct Warp {
    pub id: usize,
    pub cta: usize,
    /// Warp number within its CTA.
    pub index: u32,
    /// Thread number of lane 0 within the unit.
    pub base: usize,
    pub initial: u32,
    pub alive: u32,
    pub regs: Vec<Lanes>,
    /// Per register: lanes whose value was never written, or came from such a value.
    pub un: Vec<u32>,
    pub preds: Vec<u32>,
    pub pun: Vec<u32>,
    pub carry: u32,
    pub groups: Vec<Group>,
    pub tid: Box<[[u32; 32]; 3]>,
    pub local: Vec<u8>,
    pub local_init: Vec<u8>,
    pub cp_open: Vec<CpOp>,
    pub cp_groups: VecDeque<(u32, Vec<CpOp>)>,
    pub wg_open: Vec<WgOp>,
    pub wg_groups: VecDeque<Vec<WgOp>>,
    /// Registers that an unfinished `wgmma` will write.
    pub wg_regs: HashSet<Reg>,
    /// `wgmma` operands written since the last `wgmma.fence`; `None` before the first one.
    pub wg_fence: Option<HashSet<Reg>>,
    pub bulk_open: Vec<bulk::Store>,
    pub bulk_groups: VecDeque<(usize, Vec<bulk::Store>)>,
    /// The last slice ended in a failed wait.
    pub spinning: bool,
    pub rotate: u32,
}

#[derive(Default)]
pub(crate) struct BarState {
    pub generation: u64,
    /// Threads that arrived, counted as PTX counts them.
    pub arrived: u32,
    pub lanes: u32,
    pub expected: u32,
    pub votes: u32,
    pub voters: u32,
    pub known: Vec<u32>,
    pub done_known: Vec<u32>,
    pub done_votes: u32,
    pub done_voters: u32,
    pub line: u32,
}

pub(crate) struct Cta {
    pub id: [u32; 3],
    pub shared: Vec<u8>,
    pub init: Vec<u8>,
    pub cells: Cells,
    pub bars: Vec<BarState>,
    pub mbars: HashMap<u32, mbarrier::Mbarrier>,
    pub live: u32,
}

pub(crate) struct Unit<'a> {
    pub l: &'a Launch<'a>,
    pub k: &'a Kernel,
    pub number: u32,
    pub ctas: Vec<Cta>,
    pub warps: Vec<Option<Box<Warp>>>,
    pub view: View<'a>,
    pub hb: hb::Hb,
    pub findings: Vec<Finding>,
    seen: HashSet<(FindingKind, u32)>,
    suspects: Vec<(usize, u64, u32, Finding)>,
    pub steps: u64,
    /// Counts events that may let another warp go on.
    pub progress: u64,
    pub pc_warp: Vec<u64>,
    pub pc_lane: Vec<u64>,
    pub counters: Counters,
    /// Clocks published at an address by atomics after a fence.
    pub published: HashMap<u64, Vec<u32>>,
    pub cluster_gen: u64,
    pub cluster_arrived: u32,
    pub cluster_known: Vec<u32>,
    pub cluster_done: Vec<u32>,
    /// Last access of a thread to the shared memory of another CTA: its clock, its instruction and its own CTA.
    pub remote: BTreeMap<(usize, usize), (u32, u32, usize)>,
    pub pseudo: usize,
    pub timer: u64,
    /// First line that read memory nobody wrote, for the message of an uninitialised use.
    pub uninit_hint: Option<(u32, String)>,
    pub done: bool,
}

impl<'a> Unit<'a> {
    /// Sets up the CTAs of cluster `number`.
    pub fn new(l: &'a Launch<'a>, number: u32, view: View<'a>) -> Self {
        let k = l.kernel;
        let [cx, cy, cz] = l.cluster;
        let ncta = (cx * cy * cz) as usize;
        let threads = (l.block[0] * l.block[1] * l.block[2]) as usize;
        let warps_per = threads.div_ceil(32);
        let clusters = [l.grid[0] / cx, l.grid[1] / cy];
        let at = [
            number % clusters[0] * cx,
            number / clusters[0] % clusters[1] * cy,
            number / (clusters[0] * clusters[1]) * cz,
        ];
        let (mut ctas, mut warps) = (Vec::new(), Vec::new());
        for c in 0..ncta as u32 {
            let id = [at[0] + c % cx, at[1] + c / cx % cy, at[2] + c / (cx * cy)];
            ctas.push(Cta {
                id,
                shared: vec![0xff; l.shared_len],
                init: vec![0; l.shared_len],
                cells: if l.races { Cells::new(l.shared_len) } else { Cells::default() },
                bars: (0..16).map(|_| BarState::default()).collect(),
                mbars: HashMap::new(),
                live: threads as u32,
            });
            for w in 0..warps_per {
                let n = (threads - w * 32).min(32);
                let mask = if n == 32 { !0 } else { (1u32 << n) - 1 };
                let mut tid = Box::new([[0u32; 32]; 3]);
                for i in 0..32 {
                    let t = (w * 32 + i) as u32;
                    let [bx, by, _] = l.block;
                    for (d, v) in [t % bx, t / bx % by, t / (bx * by)].into_iter().enumerate() {
                        tid[d][i] = v;
                    }
                }
                warps.push(Warp {
                    id: warps.len(),
                    cta: c as usize,
                    index: w as u32,
                    base: c as usize * warps_per * 32 + w * 32,
                    initial: mask,
                    alive: mask,
                    regs: vec![[0; 32]; k.nregs as usize],
                    un: vec![!0; k.nregs as usize],
                    preds: vec![0; k.npreds as usize],
                    pun: vec![!0; k.npreds as usize],
                    carry: 0,
                    groups: vec![Group { pc: 0, mask, state: State::Ready }],
                    tid,
                    local: vec![0; k.local_bytes as usize * 32],
                    local_init: vec![0; k.local_bytes as usize * 32],
                    cp_open: vec![],
                    cp_groups: VecDeque::new(),
                    wg_open: vec![],
                    wg_groups: VecDeque::new(),
                    wg_regs: HashSet::new(),
                    wg_fence: None,
                    bulk_open: vec![],
                    bulk_groups: VecDeque::new(),
                    spinning: false,
                    rotate: 0,
                });
                let (last, warps) = (warps.len() - 1, &mut warps);
                warps[last].preds[P_TRUE as usize] = !0;
                warps[last].pun[..2].fill(0);
            }
        }
        let n = ncta * warps_per * 32;
        let nw = warps.len();
        let warps = warps.into_iter().map(|w| Some(Box::new(w))).collect();
        Unit {
            l,
            k,
            number,
            ctas,
            warps,
            view,
            hb: hb::Hb::new(n, if l.races { nw } else { 0 }),
            findings: vec![],
            seen: HashSet::new(),
            suspects: vec![],
            steps: 0,
            progress: 0,
            pc_warp: vec![0; k.insts.len()],
            pc_lane: vec![0; k.insts.len()],
            counters: Counters::default(),
            published: HashMap::new(),
            cluster_gen: 0,
            cluster_arrived: 0,
            cluster_known: vec![],
            cluster_done: vec![],
            remote: BTreeMap::new(),
            pseudo: 0,
            timer: 0,
            uninit_hint: None,
            done: false,
        }
    }

    /// Notes a finding; the first of its kind at its line only.
    pub fn note(&mut self, kind: FindingKind, w: &Warp, lane: usize, pc: u32, message: String) {
        if !self.seen.insert((kind, pc)) || self.findings.len() >= MAX_FINDINGS {
            return;
        }
        let f = self.finding(kind, w, lane, pc, message);
        self.findings.push(f);
    }

    fn finding(&self, kind: FindingKind, w: &Warp, lane: usize, pc: u32, message: String) -> Finding {
        Finding {
            kind,
            kernel: self.k.name.clone(),
            line: self.k.insts.get(pc as usize).map_or(0, |i| i.line),
            cta: self.ctas[w.cta].id,
            thread: [w.tid[0][lane & 31], w.tid[1][lane & 31], w.tid[2][lane & 31]],
            message,
        }
    }

    /// A plain read that races with an atomic is harmless if the reader goes on to compare-and-swap there (the usual
    /// emulation of missing atomics): the finding waits until then, or until the end.
    pub fn suspect(&mut self, reader: usize, place: u64, f: (FindingKind, &Warp, usize, u32, String)) {
        let (kind, w, lane, pc, message) = f;
        if self.seen.contains(&(kind, pc)) || self.suspects.len() >= 16 * MAX_FINDINGS {
            return;
        }
        let f = self.finding(kind, w, lane, pc, message);
        self.suspects.push((reader, place & !3, pc, f));
    }

    /// A compare-and-swap clears its thread.
    pub fn clear_suspect(&mut self, thread: usize, place: u64) {
        self.suspects.retain(|s| s.0 != thread || s.1 != place & !3);
    }

    /// Findings that waited become final.
    pub fn conclude(&mut self) {
        for (_, _, pc, f) in std::mem::take(&mut self.suspects) {
            if self.seen.insert((f.kind, pc)) && self.findings.len() < MAX_FINDINGS {
                self.findings.push(f);
            }
        }
    }

    /// Notes a finding that ends the unit.
    pub fn stop(&mut self, kind: FindingKind, w: &Warp, lane: usize, pc: u32, message: String) -> Stop {
        self.note(kind, w, lane, pc, message);
        Stop
    }

    /// "thread (x,y,z) at line n" of a stamp of this unit.
    pub fn describe(&self, s: crate::mem::shadow::Stamp) -> String {
        use crate::mem::shadow::{pc, tid};
        let line = self.k.insts.get(pc(s) as usize).map_or(0, |i| i.line);
        let t = tid(s);
        if t >= self.hb.threads {
            return format!("an asynchronous copy (line {line})");
        }
        let per = self.hb.threads / self.ctas.len().max(1);
        let (c, t) = (t / per, (t % per) as u32);
        let [bx, by, _] = self.l.block;
        let cta = if self.ctas.len() > 1 { format!(" of CTA {c} of the cluster") } else { String::new() };
        format!("thread ({},{},{}){cta} at line {line}", t % bx, t / bx % by, t / (bx * by))
    }

    /// Folds per-instruction counts into counts per opcode.
    pub fn finish_counters(&mut self) -> Counters {
        let mut c = std::mem::take(&mut self.counters);
        for (i, inst) in self.k.insts.iter().enumerate() {
            if self.pc_warp[i] > 0 && !matches!(inst.op, Op::Nop) {
                let e = c.instructions.entry(self.k.names[inst.name as usize].clone()).or_default();
                e.0 += self.pc_warp[i];
                e.1 += self.pc_lane[i];
            }
        }
        c
    }
}
