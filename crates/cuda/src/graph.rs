//! Recorded steps: kernels put into a CUDA graph, one behind the other, and started as one.
//!
//! A graph holds addresses and sizes. It is started only for a step that asks for the very same kernels with the very same
//! arguments, or after those arguments that differ were replaced, so nothing it holds can be out of date.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::raw::c_void;
use std::sync::atomic::Ordering::Relaxed;

use cudarc::driver::sys;
use lowrank_backend::Result;

use crate::Counters;
use crate::calls::{self, DriverError};
use crate::context::{Context, Function};

/// The driver's version that graphs need: kernel nodes of CUDA 12.
const DRIVER: i32 = 12_000;
/// Kernels of one graph at most; a longer step is started kernel by kernel.
const MOST: usize = 1 << 15;
/// Graphs that are kept.
const GRAPHS: usize = 16;
/// So few kernels with other arguments, and a quarter at most, are given them, rather than another graph made.
const FEW: usize = 64;
/// Steps whose kernels are remembered to recognise the next of their kind.
const SEEN: usize = 16;

/// A kernel with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    /// What is said of a failure.
    pub op: &'static str,
    pub entry: String,
    pub function: Function,
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared: u32,
    /// The arguments' bytes.
    pub words: Vec<u64>,
    /// Where in `words` each argument starts.
    pub starts: Vec<usize>,
}

impl Call {
    /// What the driver takes: an address per argument.
    fn arguments(&self) -> Vec<*mut c_void> {
        // SAFETY: each start is an index into words.
        self.starts.iter().map(|&i| unsafe { self.words.as_ptr().add(i) } as *mut c_void).collect()
    }

    /// Puts it on a stream.
    ///
    /// # Safety
    /// The arguments are those of the kernel; addresses in them are of buffers that live until it has run.
    pub unsafe fn start(&self, context: &Context, stream: sys::CUstream) -> Result<()> {
        let ([x, y, z], mut arguments) = (self.grid, self.arguments());
        let (raw, shared) = (self.function.raw, self.shared);
        // SAFETY: as the caller promises.
        let done = unsafe {
            let (arguments, none) = (arguments.as_mut_ptr(), std::ptr::null_mut());
            calls::cuLaunchKernel(raw, x, y, z, self.threads, 1, 1, shared, stream, arguments, none)
        };
        done.map_err(|e| context.failed(&format!("{} ({})", self.op, self.entry), e))
    }

    /// Runs `f` with the driver's description of it.
    fn described<T>(&self, f: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> T) -> T {
        let mut arguments = self.arguments();
        f(&sys::CUDA_KERNEL_NODE_PARAMS {
            func: self.function.raw,
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            kernelParams: arguments.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: std::ptr::null_mut(),
            ctx: std::ptr::null_mut(),
        })
    }

    /// Everything but the values of the arguments.
    fn kind(&self) -> (usize, [u32; 3], u32, u32, &[usize]) {
        (self.function.raw as usize, self.grid, self.threads, self.shared, &self.starts)
    }
}

/// A recorded step.
struct Graph {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    nodes: Vec<sys::CUgraphNode>,
    calls: Vec<Call>,
    /// When it was started last.
    used: u64,
}

impl Graph {
    fn new(calls: Vec<Call>) -> Result<Self, DriverError> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes a handle.
        unsafe { calls::cuGraphCreate(&mut graph, 0)? };
        let mut made =
            Graph { graph, exec: std::ptr::null_mut(), nodes: Vec::with_capacity(calls.len()), calls, used: 0 };
        for call in &made.calls {
            let mut node = std::ptr::null_mut();
            let before = made.nodes.last().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the graph and the node before are alive; the arguments are copied.
            let added = call.described(|what| unsafe {
                calls::cuGraphAddKernelNode_v2(&mut node, graph, before, usize::from(!before.is_null()), what)
            });
            added?;
            made.nodes.push(node);
        }
        // SAFETY: the graph just made.
        made.exec = unsafe { calls::handle(|to| calls::cuGraphInstantiateWithFlags(to, graph, 0))? };
        Ok(made)
    }

    /// Whether its kernels are these, whatever their arguments.
    fn of_kind(&self, calls: &[Call]) -> bool {
        self.calls.len() == calls.len() && self.calls.iter().zip(calls).all(|(a, b)| a.kind() == b.kind())
    }

    /// Kernels with other arguments.
    fn different(&self, calls: &[Call]) -> usize {
        self.calls.iter().zip(calls).filter(|(a, b)| a.words != b.words).count()
    }

    /// Takes over the arguments; returns how many kernels were given others.
    fn update(&mut self, calls: Vec<Call>) -> Result<u64, DriverError> {
        let mut updated = 0;
        for ((old, new), &node) in self.calls.iter_mut().zip(calls).zip(&self.nodes) {
            if old.words != new.words {
                // SAFETY: a node of the graph that this one was made of, and the same kernel.
                let set = |what: &_| unsafe { calls::cuGraphExecKernelNodeSetParams_v2(self.exec, node, what) };
                new.described(set)?;
                *old = new;
                updated += 1;
            }
        }
        Ok(updated)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; the driver finishes launches under way.
        unsafe {
            if !self.exec.is_null() {
                let _ = calls::cuGraphExecDestroy(self.exec);
            }
            let _ = calls::cuGraphDestroy(self.graph);
        }
    }
}

// SAFETY: handles of the driver, which locks for itself.
unsafe impl Send for Graph {}

/// The recorded steps of a handle.
#[derive(Default)]
pub(crate) struct Graphs {
    graphs: Vec<Graph>,
    /// Kinds of steps, the latest last.
    seen: VecDeque<u64>,
    clock: u64,
}

impl Graphs {
    /// Starts a step's kernels: as one if steps of its kind came before, else one by one.
    ///
    /// # Safety
    /// As for [`Call::start`], of all of them.
    pub unsafe fn start(
        &mut self,
        calls: Vec<Call>,
        context: &Context,
        stream: sys::CUstream,
        counters: &Counters,
    ) -> Result<()> {
        let fits = (2..=MOST).contains(&calls.len()) && context.info.driver >= DRIVER;
        let Some(i) = (if fits { self.find(&calls, context, counters)? } else { None }) else {
            // SAFETY: as the caller promises.
            return calls.iter().try_for_each(|call| unsafe { call.start(context, stream) });
        };
        let graph = &mut self.graphs[i];
        if graph.calls != calls {
            let updated = graph.update(calls).map_err(|e| context.failed("cuGraphExecKernelNodeSetParams", e))?;
            counters.graph_updates.fetch_add(updated, Relaxed);
        }
        self.clock += 1;
        graph.used = self.clock;
        counters.graph_launches.fetch_add(1, Relaxed);
        // SAFETY: the graph is alive, and its arguments are those of `calls`.
        unsafe { calls::cuGraphLaunch(graph.exec, stream) }.map_err(|e| context.failed("cuGraphLaunch", e))
    }

    /// The graph to start for these kernels, made if they are of a kind seen before.
    fn find(&mut self, calls: &[Call], context: &Context, counters: &Counters) -> Result<Option<usize>> {
        let kin = self.graphs.iter().enumerate().filter(|(_, g)| g.of_kind(calls));
        let nearest = kin.map(|(i, g)| (g.different(calls), g.used, i)).min();
        let full = self.graphs.len() == GRAPHS;
        if let Some((different, _, i)) = nearest
            && (different <= FEW.min(calls.len() / 4) || full)
        {
            return Ok(Some(i));
        }
        let mut hasher = DefaultHasher::new();
        calls.iter().for_each(|call| call.kind().hash(&mut hasher));
        let kind = hasher.finish();
        if !self.seen.contains(&kind) {
            if self.seen.len() == SEEN {
                self.seen.pop_front();
            }
            self.seen.push_back(kind);
            return Ok(None);
        }
        if full {
            let oldest = (0..GRAPHS).min_by_key(|&i| self.graphs[i].used).unwrap_or(0);
            self.graphs.swap_remove(oldest);
        }
        let graph = Graph::new(calls.to_vec()).map_err(|e| context.failed("a CUDA graph", e))?;
        counters.graphs_recorded.fetch_add(1, Relaxed);
        self.graphs.push(graph);
        Ok(Some(self.graphs.len() - 1))
    }

    /// Lets all of them go: the memory that they use is given up.
    pub fn clear(&mut self) {
        self.graphs.clear();
    }
}
