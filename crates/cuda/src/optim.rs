//! Gradient norm and optimiser steps, many tensors in one launch. Everything that changes from step to step comes from
//! the scalar buffer.

use lowrank_backend::{AdamW, AdamWParam, DType, Error, In, Out, Result, Scalars, Sgd, SgdParam};
use lowrank_kernels as kernels;

use crate::Cuda;

/// Elements of one block: `CHUNK` of `optim.cu`.
const CHUNK: usize = 4096;
/// Tensors of one launch: their addresses are parameters of the kernel, 4 KiB at most on the oldest drivers.
const NORM_TENSORS: usize = 160;
const ADAM_TENSORS: usize = 80;
const SGD_TENSORS: usize = 100;

/// The table of tensors of one launch, as the structs of `optim.cu`: columns of N addresses, lengths, first blocks.
struct Table<const N: usize> {
    columns: Vec<[u64; N]>,
    len: [u64; N],
    first: [u32; N],
    blocks: usize,
    count: usize,
}

impl<const N: usize> Table<N> {
    fn new(columns: usize) -> Self {
        Table { columns: vec![[0; N]; columns], len: [0; N], first: [0; N], blocks: 0, count: 0 }
    }

    /// Appends a tensor; one without elements has no block and is left out.
    fn push(&mut self, addresses: &[u64], len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        for (column, &address) in self.columns.iter_mut().zip(addresses) {
            column[self.count] = address;
        }
        self.len[self.count] = len as u64;
        self.first[self.count] = self.blocks as u32;
        self.blocks += len.div_ceil(CHUNK);
        self.count += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        // The first blocks are 32-bit numbers.
        self.count == N || self.blocks > 1 << 30
    }

    /// The bytes of the struct.
    fn words(&self) -> Vec<u64> {
        let mut words: Vec<u64> = self.columns.iter().flatten().copied().chain(self.len).collect();
        words.extend(self.first.chunks(2).map(|pair| {
            let high = pair.get(1).copied().unwrap_or(0);
            u64::from(pair[0]) | u64::from(high) << 32
        }));
        words
    }
}

/// The 2-norm over all gradients to `Scalars::NORM` and the clip factor to `Scalars::CLIP`.
pub(crate) fn grad_norm(cuda: &Cuda, grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
    const OP: &str = "grad_norm";
    let scalars = cuda.expect(OP, "scalars", scalars.as_in(), DType::F32, Scalars::LEN)?;
    if let Some(max) = max_norm.filter(|max| max.is_nan() || *max <= 0.0) {
        return Err(Error::invalid(OP, format!("max_norm {max} is not positive")));
    }
    let total: usize = grads.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
    let parts = cuda.scratch(total)?;
    let mut tables = vec![Table::<NORM_TENSORS>::new(1)];
    for (i, &g) in grads.iter().enumerate() {
        let at = cuda.expect(OP, &format!("gradient {i}"), g, DType::F32, g.len)?;
        next(&mut tables, 1).push(&[at], g.len)?;
    }
    let mut done = 0;
    for table in &tables {
        let to = parts.address() + 4 * done as u64;
        let mut l = cuda.launch(OP, &kernels::OPTIM, "grad_squares");
        l.u64s(&[to]).u32s(&[table.count as u32]).words(&table.words()).run(table.blocks, 256)?;
        done += table.blocks;
    }
    let mut l = cuda.launch(OP, &kernels::OPTIM, "grad_norm");
    l.u64s(&[scalars, parts.address()]).sizes(&[total]).f32s(&[max_norm.unwrap_or(0.0)]).run(1, 256)
}

/// The table that has room for one more.
fn next<const N: usize>(tables: &mut Vec<Table<N>>, columns: usize) -> &mut Table<N> {
    if tables.last().is_none_or(Table::is_full) {
        tables.push(Table::new(columns));
    }
    let last = tables.len() - 1;
    &mut tables[last]
}

fn expect(cuda: &Cuda, op: &'static str, group: usize, scalars: In<'_>) -> Result<u64> {
    if group >= Scalars::GROUPS {
        return Err(Error::invalid(op, format!("parameter group {group}, there are {}", Scalars::GROUPS)));
    }
    cuda.expect(op, "scalars", scalars, DType::F32, Scalars::LEN)
}

/// See [`AdamW`].
pub(crate) fn adamw(cuda: &Cuda, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
    const OP: &str = "adamw";
    let scalars = expect(cuda, OP, op.group, scalars)?;
    let mut tables = Vec::new();
    for AdamWParam { p, m, v, g } in params {
        let len = g.len;
        let at = |what, x: In<'_>| cuda.expect(OP, what, x, DType::F32, len);
        let at = [at("p", p.as_in())?, at("m", m.as_in())?, at("v", v.as_in())?, at("g", *g)?];
        next::<ADAM_TENSORS>(&mut tables, 4).push(&at, len)?;
    }
    for table in &tables {
        let mut l = cuda.launch(OP, &kernels::OPTIM, "adamw");
        l.u64s(&[scalars]).u32s(&[table.count as u32, (Scalars::LR + op.group) as u32]);
        l.f32s(&[op.beta1, 1.0 - op.beta1, op.beta2, 1.0 - op.beta2, op.eps, op.weight_decay]);
        l.words(&table.words()).run(table.blocks, 256)?;
    }
    Ok(())
}

/// See [`Sgd`].
pub(crate) fn sgd(cuda: &Cuda, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
    const OP: &str = "sgd";
    let scalars = expect(cuda, OP, op.group, scalars)?;
    let mut tables = Vec::new();
    for SgdParam { p, u, g } in params {
        let len = g.len;
        let at = |what, x: In<'_>| cuda.expect(OP, what, x, DType::F32, len);
        if u.is_none() && op.momentum != 0.0 {
            return Err(Error::invalid(OP, format!("momentum {} needs a momentum buffer", op.momentum)));
        }
        let momentum = u.as_ref().map_or(Ok(0), |u| at("u", u.as_in()))?;
        let at = [at("p", p.as_in())?, momentum, at("g", *g)?];
        next::<SGD_TENSORS>(&mut tables, 3).push(&at, len)?;
    }
    for table in &tables {
        let mut l = cuda.launch(OP, &kernels::OPTIM, "sgd");
        l.u64s(&[scalars]).u32s(&[table.count as u32, (Scalars::LR + op.group) as u32]);
        l.f32s(&[op.momentum, op.weight_decay]).words(&table.words()).run(table.blocks, 256)?;
    }
    Ok(())
}
