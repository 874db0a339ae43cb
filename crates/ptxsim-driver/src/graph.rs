//! Graphs: the work that a captured stream recorded, done again by every launch.

use std::ffi::{c_int, c_uint};

use crate::abi::{Out, R, api};
use crate::codes::*;
use crate::state::State;

fn instantiate(s: &mut State, o: Out<u64>, g: u64) -> R {
    let work = s.graphs.get_or_insert_default().get(&g).cloned().ok_or(INVALID_HANDLE)?;
    let h = s.handle();
    s.graphs.get_or_insert_default().insert(h, work);
    o.set(h)
}

fn remove(s: &mut State, g: u64) -> R {
    s.graphs.get_or_insert_default().remove(&g).map(|_| ()).ok_or(INVALID_HANDLE)
}

api! {
    healthy;
    fn cuGraphInstantiateWithFlags(o: Out<u64>, g: u64, _flags: u64) |s| { instantiate(s, o, g) }
    fn cuGraphUpload(g: u64, _stream: u64) |s| {
        if s.graphs.get_or_insert_default().contains_key(&g) { Ok(()) } else { Err(INVALID_HANDLE) }
    }
    fn cuGraphLaunch(g: u64, stream: u64) |s| {
        let work = s.graphs.get_or_insert_default().get(&g).cloned().ok_or(INVALID_HANDLE)?;
        work.into_iter().try_for_each(|w| s.submit(stream, w))
    }
    fn cuGraphGetNodes(g: u64, _nodes: Out<u64>, n: Out<usize>) |s| {
        let count = s.graphs.get_or_insert_default().get(&g).map(Vec::len).ok_or(INVALID_HANDLE)?;
        n.set(count)
    }
    fn cuGraphCreate(o: Out<u64>, _flags: c_uint) |s| {
        let h = s.handle();
        s.graphs.get_or_insert_default().insert(h, vec![]);
        o.set(h)
    }
    fn cuThreadExchangeStreamCaptureMode(_mode: Out<c_int>) |s| { s.ready() }
}

api! {
    always;
    fn cuGraphExecDestroy(g: u64) |s| { remove(s, g) }
    fn cuGraphDestroy(g: u64) |s| { remove(s, g) }
}
