#include "common.cuh"

// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) over rows x [rows, cols]; LayerNorm where there is a
// mean. A block of 256 threads per row; a row's second reading hits the cache.

// rstd = 1/√(mean(c²) + eps) with c = x or x - mean; y = c·rstd ⊙ w (+ b)
KERNEL(256)
norm_forward(float *y, float *rstd_out, float *mean_out, const float *x, const float *w, const float *b, u64 cols, float eps) {
  __shared__ float scratch[8];
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  float n = (float)cols, mean = 0.0f, v = 0.0f;
  if (mean_out) {
    for (u64 i = threadIdx.x; i < cols; i += 256) v += x[i];
    mean = block_sum<256>(v, scratch) / n;
  }
  v = 0.0f;
  for (u64 i = threadIdx.x; i < cols; i += 256) {
    float c = x[i] - mean;
    v = fmaf(c, c, v);
  }
  float rstd = 1.0f / sqrtf(block_sum<256>(v, scratch) / n + eps);
  if (threadIdx.x == 0) {
    rstd_out[blockIdx.x] = rstd;
    if (mean_out) mean_out[blockIdx.x] = mean;
  }
  for (u64 i = threadIdx.x; i < cols; i += 256) {
    float h = (x[i] - mean) * rstd * w[i];
    y[i] = b ? h + b[i] : h;
  }
}

// With x̂ = (x - mean)·rstd, t = gy ⊙ w: dx (+)= rstd (t - mean(t) - x̂·mean(t ⊙ x̂)); RMSNorm without the means.
KERNEL(256)
norm_backward(float *dx, const float *x, const float *w, const float *mean_in, const float *rstd_in, const float *gy,
              u64 cols, u32 add) {
  __shared__ float scratch[8];
  x += blockIdx.x * cols, gy += blockIdx.x * cols, dx += blockIdx.x * cols;
  float n = (float)cols, rstd = rstd_in[blockIdx.x], mean = mean_in ? mean_in[blockIdx.x] : 0.0f;
  float along = 0.0f, across = 0.0f;
  for (u64 i = threadIdx.x; i < cols; i += 256) {
    float t = gy[i] * w[i];
    along = fmaf(t, (x[i] - mean) * rstd, along);
    across += t;
  }
  along = block_sum<256>(along, scratch) / n;
  across = mean_in ? block_sum<256>(across, scratch) / n : 0.0f;
  for (u64 i = threadIdx.x; i < cols; i += 256) {
    float t = gy[i] * w[i], h = (x[i] - mean) * rstd;
    put(dx + i, rstd * (t - across - h * along), add);
  }
}

// dw = Σ gy ⊙ x̂ and db = Σ gy over `chunk` rows: y [parts, cols], one thread per column and part. The host adds the
// parts in their order if there is more than one.
KERNEL(256)
norm_weights(float *dw, float *db, const float *x, const float *mean_in, const float *rstd_in, const float *gy, u64 rows,
             u64 cols, u64 chunk, u64 results, u32 add_w, u32 add_b) {
  u64 i = thread_index();
  if (i >= results) return;
  u64 column = i % cols, first = i / cols * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum_w = 0.0f, sum_b = 0.0f;
  for (u64 row = first; row < last; row++) {
    float g = gy[row * cols + column], mean = mean_in ? mean_in[row] : 0.0f;
    sum_w = fmaf(g, (x[row * cols + column] - mean) * rstd_in[row], sum_w);
    sum_b += g;
  }
  if (dw) put(dw + i, sum_w, add_w);
  if (db) put(db + i, sum_b, add_b);
}
