//! Graphs: work put together, or recorded from a captured stream, done again by every launch.
//!
//! Work that no path of dependencies orders is done the latest first: whoever forgets a dependency sees it.

use std::ffi::{c_int, c_uint};

use crate::abi::{In, Out, R, api};
use crate::codes::*;
use crate::func::{Shape, prepare};
use crate::state::{Node, State, Work};

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNode {
    func: u64,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    args: *const usize,
    extra: *const usize,
    kern: u64,
    ctx: u64,
}

fn kernel(s: &mut State, what: &In<KernelNode>) -> R<Work> {
    let KernelNode { func, grid, block, shared, args, extra, .. } = what.read(1)?[0];
    prepare(s, func, Shape { grid, block, cluster: [1; 3], shared }, In::from_raw(args), In::from_raw(extra))
}

/// The order of a graph's launch; nodes are made after those they depend on, so there is one.
fn order(nodes: &[Node]) -> Vec<usize> {
    let mut waiting: Vec<usize> = nodes.iter().map(|n| n.after.len()).collect();
    let mut then: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|&before| then[before].push(i));
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len()).filter(|&i| waiting[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_last() {
        order.push(i);
        for &next in &then[i] {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.insert(next);
            }
        }
    }
    order
}

api! {
    healthy;
    fn cuGraphCreate(o: Out<u64>, _flags: c_uint) |s| {
        s.ready()?;
        let h = s.handle();
        s.graphs.get_or_insert_default().insert(h, vec![]);
        o.set(h)
    }
    fn cuGraphAddKernelNode_v2(o: Out<u64>, g: u64, before: In<u64>, n: usize, what: In<KernelNode>) |s| {
        let nodes = s.nodes.get_or_insert_default();
        let place = |node| nodes.get(&node).filter(|(of, _)| *of == g).map(|(_, i)| *i).ok_or(INVALID_VALUE);
        let after = before.read(n)?.into_iter().map(place).collect::<R<Vec<usize>>>()?;
        let work = kernel(s, &what)?;
        let graph = s.graphs.get_or_insert_default().get_mut(&g).ok_or(INVALID_HANDLE)?;
        let i = graph.len();
        graph.push(Node { work, after });
        let h = s.handle();
        s.nodes.get_or_insert_default().insert(h, (g, i));
        o.set(h)
    }
    fn cuGraphInstantiateWithFlags(o: Out<u64>, g: u64, _flags: u64) |s| {
        let nodes = s.graphs.get_or_insert_default().get(&g).cloned().ok_or(INVALID_HANDLE)?;
        let h = s.handle();
        s.execs.get_or_insert_default().insert(h, (g, nodes));
        o.set(h)
    }
    fn cuGraphExecKernelNodeSetParams_v2(e: u64, node: u64, what: In<KernelNode>) |s| {
        let (g, i) = s.nodes.get_or_insert_default().get(&node).copied().ok_or(INVALID_VALUE)?;
        let work = kernel(s, &what)?;
        let (of, nodes) = s.execs.get_or_insert_default().get_mut(&e).ok_or(INVALID_HANDLE)?;
        if *of != g {
            return Err(INVALID_VALUE);
        }
        nodes[i].work = work;
        Ok(())
    }
    fn cuGraphUpload(e: u64, _stream: u64) |s| {
        if s.execs.get_or_insert_default().contains_key(&e) { Ok(()) } else { Err(INVALID_HANDLE) }
    }
    fn cuGraphLaunch(e: u64, stream: u64) |s| {
        let (_, nodes) = s.execs.get_or_insert_default().get(&e).cloned().ok_or(INVALID_HANDLE)?;
        order(&nodes).into_iter().try_for_each(|i| s.submit(stream, nodes[i].work.clone()))
    }
    fn cuGraphGetNodes(g: u64, _nodes: Out<u64>, n: Out<usize>) |s| {
        let count = s.graphs.get_or_insert_default().get(&g).map(Vec::len).ok_or(INVALID_HANDLE)?;
        n.set(count)
    }
    fn cuThreadExchangeStreamCaptureMode(_mode: Out<c_int>) |s| { s.ready() }
}

api! {
    always;
    fn cuGraphExecDestroy(e: u64) |s| {
        s.execs.get_or_insert_default().remove(&e).map(|_| ()).ok_or(INVALID_HANDLE)
    }
    fn cuGraphDestroy(g: u64) |s| {
        s.nodes.get_or_insert_default().retain(|_, (of, _)| *of != g);
        s.graphs.get_or_insert_default().remove(&g).map(|_| ()).ok_or(INVALID_HANDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_orders_comes_the_latest_first() {
        let node = |after: &[usize]| Node { work: Work::Free(0), after: after.to_vec() };
        let chain: Vec<Node> = (0..4).map(|i: usize| node(&i.checked_sub(1).into_iter().collect::<Vec<_>>())).collect();
        assert_eq!(order(&chain), [0, 1, 2, 3]);
        assert_eq!(order(&[node(&[]), node(&[]), node(&[0]), node(&[0, 1])]), [1, 0, 3, 2]);
    }
}
