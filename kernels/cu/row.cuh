// A row of f32 or bf16 that a block of 256 threads goes through: a thread takes one f32 or four bf16 at a time, so that a
// warp moves whole lines either way. The order of sums over a row depends on its type and length only.
// Needs common.cuh and storage.cuh before it.
#pragma once

template <typename T> struct Row;
template <> struct Row<float> {
  static constexpr int N = 1;
};
template <> struct Row<bf16> {
  static constexpr int N = 4;
};

// f(i, n) for the elements i … i + n - 1 that are this thread's, n ≤ N.
template <int N, typename F> DEVICE void each(u64 cols, const F &f) {
  for (u64 i = threadIdx.x * N; i < cols; i += 256 * N) f(i, N == 1 ? 1u : how_many(i, cols));
}

// Whether N elements of a row may be moved at once.
template <int N, typename T> DEVICE bool wide(const T *x) { return N == 1 || ((u64)x & (N * sizeof(T) - 1)) == 0; }

// Elements i … i + n - 1; zeros after them.
template <typename T> DEVICE void take(float (&v)[1], const T *x, u64 i, u32, bool) { v[0] = to_f32(x[i]); }
template <typename T> DEVICE void take(float (&v)[4], const T *x, u64 i, u32 n, bool wide) { load4_as(v, x + i, n, wide); }

// y (+)= v for elements i … i + n - 1.
template <typename T> DEVICE void give(T *y, u64 i, const float (&v)[1], u32, bool, u32 add) { put(y + i, v[0], add); }
template <typename T> DEVICE void give(T *y, u64 i, const float (&v)[4], u32 n, bool wide, u32 add) {
  store4_half(y + i, v, n, wide, add);
}
