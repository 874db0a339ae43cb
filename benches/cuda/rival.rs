//! cuBLASLt on the same shapes, if its library is found when the bench runs: `y = x Wᵀ`, and `dx = gy W` behind it.

use cudarc::cublaslt::{result as lt, sys};
use lowrank_core::{DType, Precision};

use crate::clock::Memory;
use crate::{Outcome, Setup, values};

/// Bytes that an algorithm may use beside the operands.
const WORKSPACE: usize = 32 << 20;

/// Random operands.
fn operand(shape: [usize; 2], stream: u32, dtype: DType) -> Outcome<Memory> {
    let values = values(&shape, stream, dtype);
    if dtype != DType::BF16 {
        return Memory::of(bytemuck::cast_slice(&values));
    }
    let narrow: Vec<half::bf16> = values.iter().map(|&v| half::bf16::from_f32(v)).collect();
    Memory::of(bytemuck::cast_slice(&narrow))
}

/// A product in cuBLASLt's terms: column-major, so rows and columns change places.
struct Product {
    desc: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Product {
    /// `c[m,n] = a[m,k] b`, where b is `[n,k]` if it is transposed, else `[k,n]`.
    fn new(
        handle: sys::cublasLtHandle_t,
        [m, n, k]: [usize; 3],
        transposed: bool,
        (dtype, precision): (DType, Precision),
    ) -> Outcome<Self> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let ty = if dtype == DType::BF16 { sys::cudaDataType::CUDA_R_16BF } else { sys::cudaDataType::CUDA_R_32F };
        let compute = if precision == Precision::Tf32 { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let desc = lt::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
        let op = i32::from(transposed);
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: a live descriptor, and an attribute of 4 bytes.
        unsafe { lt::set_matmul_desc_attribute(desc, which, (&raw const op).cast(), 4)? };
        let layout = |rows: usize, cols: usize| lt::create_matrix_layout(ty, rows as u64, cols as u64, rows as i64);
        let b = if transposed { layout(k, n)? } else { layout(n, k)? };
        let layouts = [b, layout(k, m)?, layout(n, m)?];
        let (preference, room) = (lt::create_matmul_pref()?, WORKSPACE);
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: live handles made above, and an attribute of 8 bytes.
        let found = unsafe {
            lt::set_matmul_pref_attribute(preference, most, (&raw const room).cast(), 8)?;
            let [a, b, c] = layouts;
            let found = lt::get_matmul_algo_heuristic(handle, desc, a, b, c, c, preference);
            lt::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Product { desc, layouts, algorithm: found.algo })
    }

    fn run(
        &self,
        setup: &Setup,
        handle: sys::cublasLtHandle_t,
        [a, b, c]: [&Memory; 3],
        workspace: &Memory,
    ) -> Outcome {
        let (one, zero) = (1f32, 0f32);
        let at = |m: &Memory| m.0 as *mut std::ffi::c_void;
        let [la, lb, lc] = self.layouts;
        // SAFETY: operands of the layouts' sizes, alive until the clock has waited for them.
        unsafe {
            lt::matmul(
                handle,
                self.desc,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                at(b),
                la,
                at(a),
                lb,
                at(c),
                lc,
                at(c),
                lc,
                &self.algorithm,
                at(workspace),
                WORKSPACE,
                setup.clock.stream.cast(),
            )?;
        }
        Ok(())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        unsafe {
            self.layouts.into_iter().for_each(|l| _ = lt::destroy_matrix_layout(l));
            let _ = lt::destroy_matmul_desc(self.desc);
        }
    }
}

/// Seconds of the frozen linear, forward or both ways; or why there are none.
pub fn frozen(
    setup: &Setup,
    [m, k, n, _]: [usize; 4],
    mode: (DType, Precision),
    backward: bool,
) -> Outcome<Result<f64, &'static str>> {
    if mode == (DType::BF16, Precision::Full) {
        return Ok(Err("has no product of f32 with bf16"));
    }
    // SAFETY: tries to open the library, nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Err("libcublasLt was not found"));
    }
    if setup.device.name().contains("ptxsim") {
        return Ok(Err("does not run on the interpreter"));
    }
    let handle = lt::create_handle()?;
    let (x, w) = (operand([m, k], 0, mode.0)?, operand([n, k], 1, mode.0)?);
    let (gy, y) = (operand([m, n], 4, mode.0)?, Memory::new(m * n * mode.0.size())?);
    let (dx, workspace) = (Memory::new(m * k * mode.0.size())?, Memory::new(WORKSPACE)?);
    let there = Product::new(handle, [m, n, k], true, mode)?;
    let back = Product::new(handle, [m, k, n], false, mode)?;
    let seconds = setup.time(|| {
        there.run(setup, handle, [&x, &w, &y], &workspace)?;
        if backward { back.run(setup, handle, [&gy, &w, &dx], &workspace) } else { Ok(()) }
    });
    // SAFETY: made above, and the clock has waited for its work.
    unsafe { lt::destroy_handle(handle)? };
    Ok(Ok(seconds?))
}
