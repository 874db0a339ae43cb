//! Everything the driver knows: device memory, modules, streams, graphs, under one lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ptxsim::{Config, FindingKind, Memory, Module};

use crate::abi::{R, host_call, host_read, host_write};
use crate::codes::*;

pub(crate) static STATE: Mutex<State> = Mutex::new(State::new());

/// Shared memory of a block without opt-in.
pub(crate) const SHARED_DEFAULT: usize = 48 * 1024;

#[derive(Clone)]
pub(crate) struct Func {
    pub module: u64,
    pub name: String,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub max_dynamic: usize,
}

/// One piece of work: done at once, or recorded while a stream is captured.
#[derive(Clone)]
pub(crate) enum Work {
    Launch { func: u64, cfg: Box<Config>, params: Vec<u8> },
    HostToDevice { dst: u64, src: usize, n: usize },
    DeviceToHost { dst: usize, src: u64, n: usize },
    DeviceToDevice { dst: u64, src: u64, n: usize },
    Fill { dst: u64, pattern: Vec<u8>, count: usize },
    Host { f: extern "C" fn(*mut std::ffi::c_void), data: usize },
    Free(u64),
}

/// Work of a graph, and the nodes that must be done before it.
#[derive(Clone)]
pub(crate) struct Node {
    pub work: Work,
    pub after: Vec<usize>,
}

pub(crate) struct State {
    pub memory: Option<Memory>,
    pub initialised: bool,
    pub contexts: u64,
    pub fault: Option<Code>,
    pub modules: Option<HashMap<u64, Arc<Module>>>,
    pub funcs: Option<HashMap<u64, Func>>,
    /// Streams by handle, with the work captured so far.
    pub streams: Option<HashMap<u64, Option<Vec<Work>>>>,
    pub events: Option<HashMap<u64, Option<Instant>>>,
    pub graphs: Option<HashMap<u64, Vec<Node>>>,
    /// Graph and place of each node.
    pub nodes: Option<HashMap<u64, (u64, usize)>>,
    /// Executable graphs, with the graph that each was made of.
    pub execs: Option<HashMap<u64, (u64, Vec<Node>)>>,
    pub pinned: Option<HashMap<usize, Box<[u64]>>>,
    next: u64,
}

impl State {
    const fn new() -> Self {
        State {
            memory: None,
            initialised: false,
            contexts: 0,
            fault: None,
            modules: None,
            funcs: None,
            streams: None,
            events: None,
            graphs: None,
            nodes: None,
            execs: None,
            pinned: None,
            next: 0x1000,
        }
    }

    /// A handle that was never given out before.
    pub fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    pub fn mem(&mut self) -> &mut Memory {
        self.memory.get_or_insert_with(Memory::new)
    }

    pub fn ready(&self) -> R {
        if self.initialised { Ok(()) } else { Err(NOT_INITIALIZED) }
    }

    /// Does work now, or records it if the stream is captured. The null stream is never captured.
    pub fn submit(&mut self, stream: u64, work: Work) -> R {
        self.ready()?;
        if stream > 2 {
            match self.streams.get_or_insert_default().get_mut(&stream) {
                None => return Err(INVALID_HANDLE),
                Some(Some(captured)) => {
                    captured.push(work);
                    return Ok(());
                }
                Some(None) => {}
            }
        }
        self.perform(&work)
    }

    pub fn perform(&mut self, work: &Work) -> R {
        let illegal = |e: ptxsim::Error| {
            eprintln!("ptxsim-driver: {e}");
            INVALID_VALUE
        };
        match work {
            Work::Launch { func, cfg, params } => self.launch(*func, cfg, params),
            Work::HostToDevice { dst, src, n } => {
                let bytes = host_read(*src, *n)?;
                self.mem().write(*dst, &bytes).map_err(illegal)
            }
            Work::DeviceToHost { dst, src, n } => {
                let bytes = self.mem().read(*src, *n).map_err(illegal)?;
                host_write(*dst, bytes)
            }
            Work::DeviceToDevice { dst, src, n } => {
                let bytes = self.mem().read(*src, *n).map_err(illegal)?.to_vec();
                self.mem().write(*dst, &bytes).map_err(illegal)
            }
            Work::Fill { dst, pattern, count } => {
                let bytes = pattern.repeat(*count);
                self.mem().write(*dst, &bytes).map_err(illegal)
            }
            Work::Host { f, data } => {
                host_call(*f, *data);
                Ok(())
            }
            Work::Free(p) => self.mem().free(*p).map_err(illegal),
        }
    }

    fn launch(&mut self, func: u64, cfg: &Config, params: &[u8]) -> R {
        let f = self.funcs.get_or_insert_default().get(&func).cloned().ok_or(INVALID_HANDLE)?;
        let module = self.modules.get_or_insert_default().get(&f.module).cloned().ok_or(INVALID_HANDLE)?;
        let report = match ptxsim::launch_raw(&module, &f.name, self.mem(), cfg, params.to_vec()) {
            Ok(r) => r,
            Err(e) => {
                eprintln!("ptxsim-driver: launch of {}: {e}", f.name);
                return Err(INVALID_VALUE);
            }
        };
        if report.is_clean() {
            return Ok(());
        }
        eprint!("ptxsim-driver: {report}");
        let code = match report.fatal().map(|x| x.kind) {
            Some(FindingKind::OutOfBounds) => ILLEGAL_ADDRESS,
            Some(FindingKind::Misaligned) => MISALIGNED_ADDRESS,
            _ => LAUNCH_FAILED,
        };
        self.fault = Some(code);
        Err(code)
    }
}
