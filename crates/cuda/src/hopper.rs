//! Hopper's own kernels (wgmma and TMA), and which products they take. The rest is left to those for compute capability
//! 8.0, which run everywhere: deliberately, by this table.
//!
//! | product | taken where |
//! | --- | --- |
//! | all | compute capability 9.0, a driver of CUDA 12; precision bf16, or any where both operands are bf16 and there is no low-rank part; the second operand bf16, its rows multiples of 16 bytes; the result f32 or bf16; one matrix, alpha 1 |
//! | `x Wᵀ + s h Bᵀ + bias` | more than 16 rows (else the decode kernel); result set, not added to; any bias, any rank |
//! | `gy W + (u A) ⊙ mask` | any rows, any rank, dropout, set or added to |
//! | `xᵀ y`, f32 or f16 or quantised W, other precisions | never |
//!
//! x and gy that are bf16 in memory, in rows of whole 16 bytes, are read as they are: of `[m,k]` that is 2mk bytes from memory
//! where f32 ones cost 4mk for the sums into the rank, 2mk for the copy that these leave, and 2mk to read it. Operands that
//! are not bf16 in memory are rounded into copies. Of a low-rank linear with a rank of 8, 16, 24 … 128 and rows of x or gy
//! that are multiples of 8 numbers, the sums of `lora_tc.cuh` leave them as they pass ([`Rounded`]); of anything else (gy in
//! bf16 with other rows included) one launch before the product (`bf16_rows`). s goes into the copy of h.
//! `LOWRANK_CUDA_TIER=80` leaves everything to the common kernels, `90a` insists on these.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys;
use lowrank_backend::{Error, Precision, Result};
use lowrank_kernels::gemm::{Gemm as Product, Layout, Tail as LowRank};
use lowrank_kernels::hopper::{BOX_COLS, Backward, Forward, MAP_BYTES, Map, Mapped, Rows, Tail, bf16_rows, pitch};
use lowrank_kernels::launch::{Operand, Type};
use lowrank_kernels::lora::{Copies as Left, MAX_RANK};

use crate::Cuda;
use crate::calls;
use crate::driver::DeviceInfo;
use crate::gemm::{few_rows, native, too_large};
use crate::memory::CudaBuffer;

/// The environment variable that names the tier.
pub(crate) const TIER: &str = "LOWRANK_CUDA_TIER";

/// Whether a device gets these kernels: by what it is, or as the variable says.
pub(crate) fn wanted(info: &DeviceInfo, tier: Option<&str>) -> Result<bool> {
    let refuse = |detail: String| Err(Error::Device { device: info.to_string(), detail });
    let (major, minor) = info.compute_capability;
    // The PTX is for 9.0 alone, and of a version that needs CUDA 12.
    let able = (major, minor) == (9, 0) && info.driver >= 12_000;
    match tier {
        None | Some("") => Ok(able),
        Some("80") => Ok(false),
        Some("90a") if able => Ok(true),
        Some("90a") => refuse(format!(
            "{TIER}=90a needs compute capability 9.0 and a driver of CUDA 12, this is {major}.{minor} and {}",
            crate::driver::version(info.driver)
        )),
        Some(other) => refuse(format!("{TIER} is {other:?}; it can be 80 or 90a")),
    }
}

/// Encoded maps by what they were asked for; most are of weights, which stay where they are.
#[derive(Default)]
pub(crate) struct Maps(Mutex<HashMap<Map, [u64; MAP_BYTES / 8]>>);

/// As many maps are kept.
const KEPT: usize = 4096;

impl Maps {
    fn encoded(&self, cuda: &Cuda, map: &Map) -> Result<[u64; MAP_BYTES / 8]> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = kept.get(map) {
            return Ok(*words);
        }
        let mut to = sys::CUtensorMap { opaque: [0; MAP_BYTES / 8] };
        let (dims, strides) = ([map.cols as u64, map.rows as u64], [map.pitch as u64 * 2]);
        let (boxes, steps) = ([BOX_COLS, map.box_rows], [1, 1]);
        // SAFETY: two dimensions, as long as the arrays; the driver only computes, it does not look at the matrix.
        let done = unsafe {
            calls::cuTensorMapEncodeTiled(
                &mut to,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                map.at as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        done.map_err(|e| cuda.context.failed("cuTensorMapEncodeTiled", e))?;
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(*map, to.opaque);
        Ok(to.opaque)
    }
}

/// Whether the table above says so.
fn takes(cuda: &Cuda, p: &Product) -> bool {
    let shape = match p.layout {
        Layout::NT => {
            let masked = p.tail.is_some_and(|tail| tail.dropout.is_some());
            !few_rows(p) && p.k.is_multiple_of(8) && !p.add && !masked
        }
        Layout::NN => p.n.is_multiple_of(8) && p.bias.is_none(),
        Layout::TN => false,
    };
    let weight = p.b.ty == Type::Bf16 && p.b.at.is_multiple_of(16);
    cuda.hopper && shape && weight && p.c.ty != Type::F16 && p.batch == 1 && p.alpha == 1.0
}

/// Memory for the operands of a product with a low-rank part, which the sums into its rank leave in bf16: for these kernels,
/// and for the common ones where the other operands are bf16 already.
pub(crate) struct Rounded {
    /// Of x or gy, unless it is bf16.
    first: Option<CudaBuffer>,
    low: CudaBuffer,
    other: CudaBuffer,
    /// What it is for.
    product: Product,
    tail: LowRank,
}

impl Rounded {
    /// If kernels that multiply bf16 take the product, and its operands are such that the sums can leave copies.
    pub fn new(cuda: &Cuda, p: &Product, precision: Precision) -> Result<Option<Self>> {
        let (hopper, common) = (takes(cuda, p), native(p) && !few_rows(p));
        let wanted = precision == Precision::Bf16 && (hopper || common);
        let Some(tail) = p.tail.filter(|_| wanted) else { return Ok(None) };
        let rank = (1..=MAX_RANK).contains(&tail.r) && (!hopper || pitch(tail.r) == tail.r);
        let low = tail.a.ty == Type::F32 && tail.b.ty == Type::F32;
        let copied = p.a.ty == Type::F32;
        let passes = if copied { p.a.at.is_multiple_of(16) && pitch(p.k) == p.k } else { p.a.ty == Type::Bf16 };
        if p.m * p.n * p.k == 0 || !rank || !low || !passes {
            return Ok(None);
        }
        let copy = |rows, cols| cuda.memory(rows * cols * Type::Bf16.size());
        let first = copied.then(|| copy(p.m, p.k)).transpose()?;
        let (low, other) = (copy(p.m, tail.r)?, copy(p.n, tail.r)?);
        Ok(Some(Rounded { first, low, other, product: *p, tail }))
    }

    /// What the sums are to leave.
    pub fn left(&self) -> Left {
        let (other, len) = (self.other.address(), self.product.n * self.tail.r);
        Left {
            x: self.first.as_ref().map(CudaBuffer::address),
            u: Some((self.low.address(), self.tail.s)),
            other: Some((self.tail.b.at, other, len)),
        }
    }

    /// The product, of what they left.
    pub fn product(&self) -> Product {
        let of = |copy: &CudaBuffer| Operand::new(copy.address(), Type::Bf16);
        let tail = LowRank { a: of(&self.low), b: of(&self.other), s: 1.0, ..self.tail };
        Product { a: self.first.as_ref().map_or(self.product.a, of), tail: Some(tail), ..self.product }
    }
}

/// The copies of a product's operands.
struct Copies<'a> {
    cuda: &'a Cuda,
    jobs: Vec<Rows>,
    held: Vec<CudaBuffer>,
}

impl Copies<'_> {
    /// Where s · x `[rows, cols]` lies, or will lie, in bf16 with rows [`pitch`] apart.
    fn of(&mut self, x: Operand, rows: usize, cols: usize, s: f32) -> Result<u64> {
        if x.ty == Type::Bf16 && s == 1.0 && x.at.is_multiple_of(16) && pitch(cols) == cols {
            return Ok(x.at);
        }
        let copy = self.cuda.memory(Rows::bytes(rows, cols))?;
        let y = copy.address();
        self.jobs.push(Rows { x, y, rows, cols, s });
        self.held.push(copy);
        Ok(y)
    }
}

/// Puts a product with operands rounded to bf16 on the stream; false if it is not one for these kernels.
pub(crate) fn product(cuda: &Cuda, op: &'static str, p: &Product) -> Result<bool> {
    let &Product { m, n, k, a, b, c, bias, add, .. } = p;
    if !takes(cuda, p) || m * n * k == 0 {
        return Ok(false);
    }
    let mut copies = Copies { cuda, jobs: Vec::new(), held: Vec::new() };
    let first = copies.of(a, m, k, 1.0)?;
    let tail = match p.tail.filter(|t| t.r > 0) {
        Some(t) => {
            let [rows, cols] = if p.layout == Layout::NT { [n, t.r] } else { [t.r, n] };
            Some(Tail { a: copies.of(t.a, m, t.r, t.s)?, b: copies.of(t.b, rows, cols, 1.0)?, r: t.r })
        }
        None => None,
    };
    let dropout = p.tail.and_then(|t| t.dropout);
    let blocks = cuda.context.info.multiprocessors as usize;
    let mapped = match p.layout {
        Layout::NT => Forward { m, n, k, x: first, w: b.at, tail, bias, y: c }.launch(blocks),
        _ => Backward { m, n: k, k: n, gy: first, w: b.at, tail, dropout, dx: c, add }.launch(blocks),
    };
    let Some(Mapped { mut launch, maps }) = mapped.map_err(too_large(op))? else { return Ok(false) };
    for (map, to) in maps.iter().zip(launch.params.chunks_exact_mut(MAP_BYTES)) {
        to.copy_from_slice(bytemuck::bytes_of(&cuda.context.maps.encoded(cuda, map)?));
    }
    let rounding = bf16_rows(&copies.jobs).map_err(too_large(op))?;
    cuda.run_planned(op, rounding.as_slice())?;
    cuda.run_planned(op, &[launch])?;
    Ok(true)
}
