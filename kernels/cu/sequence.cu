#include "common.cuh"
#include "storage.cuh"
#include "functions.cuh"

// RoPE (Su et al. 2021, half-split) over x [batch, seq, heads, 2·half]: a thread turns one pair (x₁, x₂) to
// (x₁ cos - x₂ sin, x₂ cos + x₁ sin). sign is -1 to turn back. The tables begin at the first position.
KERNEL(256)
rope(float *y, const float *x, const float *cos, const float *sin, u64 pairs, u64 half, u64 heads, u64 seq, float sign, u32 add) {
  u64 i = thread_index();
  if (i >= pairs) return;
  u64 row = i / half, column = i % half, at = row / heads % seq * half + column, here = row * 2 * half + column;
  float c = cos[at], s = sign * sin[at], x1 = x[here], x2 = x[here + half];
  put(y + here, x1 * c - x2 * s, add);
  put(y + here + half, x2 * c + x1 * s, add);
}

// y = silu(gate) ⊙ up, four elements a thread.
KERNEL(256) swiglu_forward(float *y, const float *gate, const float *up, u64 len) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float g[4], u[4];
  load4(g, gate, F32, first, n, aligned4(gate, F32));
  load4(u, up, F32, first, n, aligned4(up, F32));
#pragma unroll
  for (int i = 0; i < 4; i++) g[i] = silu(g[i]) * u[i];
  store4(y, F32, first, g, n, aligned4(y, F32), 0);
}

// dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate); either may be absent.
KERNEL(256)
swiglu_backward(float *dgate, float *dup, const float *gate, const float *up, const float *gy, u64 len, u32 add_gate, u32 add_up) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float g[4], u[4], d[4], v[4];
  load4(g, gate, F32, first, n, aligned4(gate, F32));
  load4(d, gy, F32, first, n, aligned4(gy, F32));
  if (dgate) {
    load4(u, up, F32, first, n, aligned4(up, F32));
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = d[i] * u[i] * silu_grad(g[i]);
    store4(dgate, F32, first, v, n, aligned4(dgate, F32), add_gate);
  }
  if (dup) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = d[i] * silu(g[i]);
    store4(dup, F32, first, v, n, aligned4(dup, F32), add_up);
  }
}
