// delta = rowsum(gy ⊙ y), for attention's gradient by whichever kernels: a warp for each row of dim elements. If those
// round gy to bf16, it is rounded here too: what gy vᵀ and delta have in common cancels in gy vᵀ − delta.
//   on paper: y and gy once, a float a row; ptxsim counts these sectors (tests/attention_tc.rs)
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"

KERNEL(256) attention_delta(const __grid_constant__ Attention p) {
  u64 row = (u64)blockIdx.x * 8 + threadIdx.x / 32;  // (batch, query, head)
  u32 head = (u32)(row % p.heads), query = (u32)(row / p.heads % p.q_len);
  u64 batch = row / p.heads / p.q_len;
  bool wide_y = rows_of_four(p.y, p.dim, p.type), wide_gy = rows_of_four(p.gy, p.dim, p.type);
  if (batch >= p.batch) return;
  float sum = 0.f;
  for (u32 c = threadIdx.x % 32 * 4; c < p.dim; c += 128) {
    float y[4], gy[4];
    load4(y, p.y, row * p.dim + c, (int)min(p.dim - c, 4u), p.type, wide_y);
    load4(gy, p.gy, row * p.dim + c, (int)min(p.dim - c, 4u), p.type, wide_gy);
#pragma unroll
    for (int e = 0; e < 4; e++) sum = fmaf(y[e], p.rounded ? to_f32(from_f32<bf16>(gy[e])) : gy[e], sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) p.delta_out[(batch * p.heads + head) * p.q_len + query] = sum;
}
