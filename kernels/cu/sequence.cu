#include "common.cuh"
#include "storage.cuh"
#include "functions.cuh"

// Rotary positions and the gated unit on activations in f32, or in bf16 in the kernels *_bf16; every element is read once
// and written once, in whole sectors (tests/traffic.rs asserts it).
template <typename T> constexpr u32 TYPE = F32;
template <> constexpr u32 TYPE<bf16> = BF16;

// RoPE (Su et al. 2021, half-split) over x [batch, seq, heads, 2·half]: a thread turns one pair (x₁, x₂) to
// (x₁ cos - x₂ sin, x₂ cos + x₁ sin). sign is -1 to turn back. The tables, f32, begin at the first position.
template <typename T>
DEVICE void turn(T *y, const T *x, const float *cos, const float *sin, u64 pairs, u64 half, u64 heads, u64 seq, float sign, u32 add) {
  u64 i = thread_index();
  if (i >= pairs) return;
  u64 row = i / half, column = i % half, at = row / heads % seq * half + column, here = row * 2 * half + column;
  float c = cos[at], s = sign * sin[at], x1 = to_f32(x[here]), x2 = to_f32(x[here + half]);
  put(y + here, x1 * c - x2 * s, add);
  put(y + here + half, x2 * c + x1 * s, add);
}

// y = silu(gate) ⊙ up, four elements a thread.
template <typename T> DEVICE void gated(T *y, const T *gate, const T *up, u64 len) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float g[4], u[4];
  load4(g, gate, TYPE<T>, first, n, aligned4(gate, TYPE<T>));
  load4(u, up, TYPE<T>, first, n, aligned4(up, TYPE<T>));
#pragma unroll
  for (int i = 0; i < 4; i++) g[i] = silu(g[i]) * u[i];
  store4(y, TYPE<T>, first, g, n, aligned4(y, TYPE<T>), 0);
}

// dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate); either may be absent.
template <typename T>
DEVICE void gated_backward(T *dgate, T *dup, const T *gate, const T *up, const T *gy, u64 len, u32 add_gate, u32 add_up) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float g[4], u[4], d[4], v[4];
  load4(g, gate, TYPE<T>, first, n, aligned4(gate, TYPE<T>));
  load4(d, gy, TYPE<T>, first, n, aligned4(gy, TYPE<T>));
  if (dgate) {
    load4(u, up, TYPE<T>, first, n, aligned4(up, TYPE<T>));
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = d[i] * u[i] * silu_grad(g[i]);
    store4(dgate, TYPE<T>, first, v, n, aligned4(dgate, TYPE<T>), add_gate);
  }
  if (dup) {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = d[i] * silu(g[i]);
    store4(dup, TYPE<T>, first, v, n, aligned4(dup, TYPE<T>), add_up);
  }
}

#define SEQUENCE(T, name)                                                                                                   \
  KERNEL(256)                                                                                                               \
  rope##name(T *y, const T *x, const float *cos, const float *sin, u64 pairs, u64 half, u64 heads, u64 seq, float sign, u32 add) { \
    turn(y, x, cos, sin, pairs, half, heads, seq, sign, add);                                                               \
  }                                                                                                                         \
  KERNEL(256) swiglu_forward##name(T *y, const T *gate, const T *up, u64 len) { gated(y, gate, up, len); }                  \
  KERNEL(256)                                                                                                               \
  swiglu_backward##name(T *dgate, T *dup, const T *gate, const T *up, const T *gy, u64 len, u32 add_gate, u32 add_up) {     \
    gated_backward(dgate, dup, gate, up, gy, len, add_gate, add_up);                                                        \
  }
SEQUENCE(float, )
SEQUENCE(bf16, _bf16)
