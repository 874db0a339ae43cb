#include "common.cuh"
#include "storage.cuh"
#include "row.cuh"
#include "functions.cuh"

// Rotary positions and the gated unit on activations in f32, or in bf16 in the kernels *_bf16; every element is read once
// and written once, in whole sectors (tests/traffic.rs asserts it).
template <typename T> constexpr u32 TYPE = F32;
template <> constexpr u32 TYPE<bf16> = BF16;

// RoPE (Su et al. 2021, half-split) over x [batch, seq, heads, 2·half]: a pair (x₁, x₂) is turned to
// (x₁ cos - x₂ sin, x₂ cos + x₁ sin). sign is -1 to turn back. The tables, f32, begin at the first position. A thread turns
// N pairs that are neighbours.
template <int N, typename T>
DEVICE void turn(T *y, const T *x, const float *cos, const float *sin, u64 i, u64 half, u64 heads, u64 seq, float sign, u32 add) {
  u64 row = i / half, column = i % half, at = row / heads % seq * half + column, here = row * 2 * half + column;
  float c[N], s[N], x1[N], x2[N], y1[N], y2[N];
  take(c, cos, at, N, true);
  take(s, sin, at, N, true);
  take(x1, x, here, N, true);
  take(x2, x, here + half, N, true);
#pragma unroll
  for (int j = 0; j < N; j++) {
    s[j] *= sign;
    y1[j] = x1[j] * c[j] - x2[j] * s[j];
    y2[j] = fmaf(x1[j], s[j], x2[j] * c[j]);
  }
  give(y, here, y1, N, true, add);
  give(y, here + half, y2, N, true, add);
}

// One pair of f32 a thread, or four of bf16; these one by one where a row of them is not aligned.
template <typename T>
DEVICE void turn_all(T *y, const T *x, const float *cos, const float *sin, u64 pairs, u64 half, u64 heads, u64 seq, float sign, u32 add) {
  constexpr int N = Row<T>::N;
  u64 i = thread_index() * N;
  if (i >= pairs) return;
  if (half % N == 0 && wide<N>(x) && wide<N>(y) && wide<N>(cos) && wide<N>(sin)) {
    turn<N>(y, x, cos, sin, i, half, heads, seq, sign, add);
  } else {
    u64 end = pairs - i < N ? pairs : i + N;
#pragma unroll 1
    for (; i < end; i++) turn<1>(y, x, cos, sin, i, half, heads, seq, sign, add);
  }
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
    turn_all(y, x, cos, sin, pairs, half, heads, seq, sign, add);                                                               \
  }                                                                                                                         \
  KERNEL(256) swiglu_forward##name(T *y, const T *gate, const T *up, u64 len) { gated(y, gate, up, len); }                  \
  KERNEL(256)                                                                                                               \
  swiglu_backward##name(T *dgate, T *dup, const T *gate, const T *up, const T *gy, u64 len, u32 add_gate, u32 add_up) {     \
    gated_backward(dgate, dup, gate, up, gy, len, add_gate, add_up);                                                        \
  }
SEQUENCE(float, )
SEQUENCE(bf16, _bf16)
