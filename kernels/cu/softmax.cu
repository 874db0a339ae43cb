#include "common.cuh"

// Softmax and cross entropy over rows x [rows, cols], a block of 256 threads each; sums are 256 strided parts, then the
// block's tree, so their order depends on cols alone.

// The running maximum m and s = Σ exp(x - m) of what a thread has seen: one pass over memory instead of two.
struct Running {
  float max, sum;
};

DEVICE void see(Running &r, float x) {
  if (x > r.max) {
    r.sum = r.sum * expf(r.max - x) + 1.0f;
    r.max = x;
  } else {
    // Equal first: -∞ - (-∞) is no number. A NaN is not greater, and goes into the sum.
    r.sum += x == r.max ? 1.0f : expf(x - r.max);
  }
}

// The row's, in every thread.
DEVICE Running row_running(const float *x, u64 cols, float *scratch) {
  Running r = {__int_as_float(0xff800000), 0.0f};
  for (u64 i = threadIdx.x; i < cols; i += 256) see(r, x[i]);
  float max = block_max<256>(r.max, scratch);
  // A thread without elements has sum 0 and max -∞.
  float sum = block_sum<256>(r.sum == 0.0f ? 0.0f : r.sum * (r.max == max ? 1.0f : expf(r.max - max)), scratch);
  // As in the definition: exp(∞ - ∞) is no number.
  return {max, max - max == 0.0f ? sum : __int_as_float(0x7fc00000)};
}

// y = exp(x - max) / Σ exp(x - max)
KERNEL(256) softmax_forward(float *y, const float *x, u64 cols) {
  __shared__ float scratch[8];
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  Running r = row_running(x, cols, scratch);
  for (u64 i = threadIdx.x; i < cols; i += 256) y[i] = expf(x[i] - r.max) / r.sum;
}

// dx (+)= y ⊙ (gy - rowsum(gy ⊙ y))
KERNEL(256) softmax_backward(float *dx, const float *y, const float *gy, u64 cols, u32 add) {
  __shared__ float scratch[8];
  y += blockIdx.x * cols, gy += blockIdx.x * cols, dx += blockIdx.x * cols;
  float v = 0.0f;
  for (u64 i = threadIdx.x; i < cols; i += 256) v = fmaf(gy[i], y[i], v);
  float sum = block_sum<256>(v, scratch);
  for (u64 i = threadIdx.x; i < cols; i += 256) put(dx + i, y[i] * (gy[i] - sum), add);
}

static const u32 IGNORE = 0xffffffff;

// lse = max + ln Σ exp(x - max), loss = lse - x[target]: the logits are read once. NaN for a target beyond the
// vocabulary, since nothing can be reported without waiting; 0 in ignored rows, whatever they hold.
KERNEL(256) cross_entropy_forward(float *lse, float *losses, const float *x, const u32 *targets, u64 cols) {
  __shared__ float scratch[8];
  x += blockIdx.x * cols;
  Running r = row_running(x, cols, scratch);
  if (threadIdx.x) return;
  float l = r.max + logf(r.sum), loss = 0.0f;
  u32 target = targets[blockIdx.x];
  if (target != IGNORE) loss = target < cols ? l - x[target] : __int_as_float(0x7fc00000);
  lse[blockIdx.x] = l;
  losses[blockIdx.x] = loss;
}

// loss = factor · Σ losses, by one block.
KERNEL(256) cross_entropy_total(float *loss, const float *losses, u64 rows, float factor) {
  __shared__ float scratch[8];
  float v = 0.0f;
  for (u64 i = threadIdx.x; i < rows; i += 256) v += losses[i];
  v = block_sum<256>(v, scratch);
  if (threadIdx.x == 0) *loss = v * factor;
}

// x = gy · factor · (exp(x - lse) - onehot), over the logits themselves.
KERNEL(256)
cross_entropy_backward(float *x, const u32 *targets, const float *lse, const float *gy, u64 cols, float factor) {
  x += blockIdx.x * cols;
  u32 target = targets[blockIdx.x];
  float l = lse[blockIdx.x], scale = *gy * factor;
  for (u64 i = threadIdx.x; i < cols; i += 256) {
    float v = 0.0f;
    if (target != IGNORE) {
      float hit = target < cols ? (i == target ? 1.0f : 0.0f) : __int_as_float(0x7fc00000);
      v = scale * (expf(x[i] - l) - hit);
    }
    x[i] = v;
  }
}
