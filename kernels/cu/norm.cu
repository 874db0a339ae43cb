#include "common.cuh"
#include "storage.cuh"
#include "row.cuh"

// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) over rows x [rows, cols]; LayerNorm where there is a
// mean. A block of 256 threads per row; a row's second reading hits the cache. x, y and their gradients are f32, or bf16 in
// the kernels *_bf16; everything else is f32.
//   ptxsim counts every element once for each reading, in whole sectors (tests/traffic.rs asserts it); of bf16 half the bytes
//   floor: x read and y written once; backward x, gy and dx once. Forward reads x twice (LayerNorm three times), backward x
//   and gy twice: from memory once as long as the rows under way stay in cache. On paper, for an H100: 8 blocks on each of
//   132 multiprocessors with rows of 4096 f32 are 17 MB of its 50 MB of L2, backward 6 with two rows each 26 MB; w stays
//   norm_weights reads x and gy once; rstd and mean are a sector a warp and row, from L1
//   norm_forward: 256 threads, 32 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   norm_forward_bf16: 256 threads, 40 registers, 32 bytes of shared memory: 6 blocks on 9.0, 6 on 8.6
//   norm_backward, norm_backward_bf16: 256 threads, 38 registers, 32 bytes of shared memory: 6 blocks on 9.0, 6 on 8.6
//   norm_weights, norm_weights_bf16: 256 threads, 40 registers: 6 blocks on 9.0, 6 on 8.6

// rstd = 1/√(mean(c²) + eps) with c = x or x - mean; y = c·rstd ⊙ w (+ b)
template <typename T>
DEVICE void forward(T *y, float *rstd_out, float *mean_out, const T *x, const float *w, const float *b, u64 cols, float eps) {
  constexpr int N = Row<T>::N;
  __shared__ float scratch[8];
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  bool wide_x = wide<N>(x), wide_y = wide<N>(y), wide_w = wide<N>(w), wide_b = wide<N>(b);
  float n = (float)cols, mean = 0.0f, v = 0.0f;
  if (mean_out) {
    each<N>(cols, [&](u64 i, u32 count) {
      float a[N];
      take(a, x, i, count, wide_x);
#pragma unroll
      for (int j = 0; j < N; j++) v += a[j];
    });
    mean = block_sum<256>(v, scratch) / n;
  }
  v = 0.0f;
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N];
    take(a, x, i, count, wide_x);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float c = j < count ? a[j] - mean : 0.0f;
      v = fmaf(c, c, v);
    }
  });
  float rstd = 1.0f / sqrtf(block_sum<256>(v, scratch) / n + eps);
  if (threadIdx.x == 0) {
    rstd_out[blockIdx.x] = rstd;
    if (mean_out) mean_out[blockIdx.x] = mean;
  }
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N], f[N], g[N], h[N];
    take(a, x, i, count, wide_x);
    take(f, w, i, count, wide_w);
    if (b) take(g, b, i, count, wide_b);
#pragma unroll
    for (int j = 0; j < N; j++) {
      h[j] = (a[j] - mean) * rstd * f[j];
      if (b) h[j] += g[j];
    }
    give(y, i, h, count, wide_y, 0);
  });
}

// With x̂ = (x - mean)·rstd, t = gy ⊙ w: dx (+)= rstd (t - mean(t) - x̂·mean(t ⊙ x̂)); RMSNorm without the means.
template <typename T>
DEVICE void backward(T *dx, const T *x, const float *w, const float *mean_in, const float *rstd_in, const T *gy, u64 cols,
                     u32 add) {
  constexpr int N = Row<T>::N;
  __shared__ float scratch[8];
  x += blockIdx.x * cols, gy += blockIdx.x * cols, dx += blockIdx.x * cols;
  bool wide_x = wide<N>(x), wide_gy = wide<N>(gy), wide_dx = wide<N>(dx), wide_w = wide<N>(w);
  float n = (float)cols, rstd = rstd_in[blockIdx.x], mean = mean_in ? mean_in[blockIdx.x] : 0.0f;
  float along = 0.0f, across = 0.0f;
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N], g[N], f[N];
    take(g, gy, i, count, wide_gy);
    take(f, w, i, count, wide_w);
    take(a, x, i, count, wide_x);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float t = g[j] * f[j];
      along = fmaf(t, (a[j] - mean) * rstd, along);
      across += t;
    }
  });
  along = block_sum<256>(along, scratch) / n;
  across = mean_in ? block_sum<256>(across, scratch) / n : 0.0f;
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N], g[N], f[N], d[N];
    take(g, gy, i, count, wide_gy);
    take(f, w, i, count, wide_w);
    take(a, x, i, count, wide_x);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float t = g[j] * f[j], h = (a[j] - mean) * rstd;
      d[j] = rstd * (t - across - h * along);
    }
    give(dx, i, d, count, wide_dx, add);
  });
}

// dw = Σ gy ⊙ x̂ and db = Σ gy over `chunk` rows: y [parts, cols], one thread per column and part. The host adds the
// parts in their order if there is more than one.
template <typename T>
DEVICE void weights(float *dw, float *db, const T *x, const float *mean_in, const float *rstd_in, const T *gy, u64 rows,
                    u64 cols, u64 chunk, u64 results, u32 add_w, u32 add_b) {
  u64 i = thread_index();
  if (i >= results) return;
  u64 column = i % cols, first = i / cols * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum_w = 0.0f, sum_b = 0.0f;
  for (u64 row = first; row < last; row++) {
    float g = to_f32(gy[row * cols + column]), mean = mean_in ? mean_in[row] : 0.0f;
    sum_w = fmaf(g, (to_f32(x[row * cols + column]) - mean) * rstd_in[row], sum_w);
    sum_b += g;
  }
  if (dw) put(dw + i, sum_w, add_w);
  if (db) put(db + i, sum_b, add_b);
}

#define NORM(T, name)                                                                                                         \
  KERNEL(256)                                                                                                                 \
  norm_forward##name(T *y, float *rstd, float *mean, const T *x, const float *w, const float *b, u64 cols, float eps) {      \
    forward(y, rstd, mean, x, w, b, cols, eps);                                                                               \
  }                                                                                                                           \
  KERNEL(256)                                                                                                                 \
  norm_backward##name(T *dx, const T *x, const float *w, const float *mean, const float *rstd, const T *gy, u64 cols, u32 add) { \
    backward(dx, x, w, mean, rstd, gy, cols, add);                                                                            \
  }                                                                                                                           \
  KERNEL(256)                                                                                                                 \
  norm_weights##name(float *dw, float *db, const T *x, const float *mean, const float *rstd, const T *gy, u64 rows, u64 cols, \
                     u64 chunk, u64 results, u32 add_w, u32 add_b) {                                                          \
    weights(dw, db, x, mean, rstd, gy, rows, cols, chunk, results, add_w, add_b);                                            \
  }
NORM(float, )
NORM(bf16, _bf16)
