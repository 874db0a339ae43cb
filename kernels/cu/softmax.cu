#include "common.cuh"
#include "storage.cuh"
#include "row.cuh"

// Softmax and cross entropy over rows x [rows, cols], a block of 256 threads each; sums are 256 strided parts, then the
// block's tree, so their order depends on cols alone. x, y and their gradients are f32, or bf16 in the kernels *_bf16.
//   ptxsim counts every element once for each reading, in whole sectors (tests/traffic.rs asserts it); of bf16 half the bytes
//   floor: x read and y written once; backward y, gy and dx once. Forward reads x twice, backward y and gy twice: from
//   memory once as long as the rows under way stay in cache (norm.cu says how many that are)
//   the loss meets its floor: logits read once, and in backward once read and once written in place
//   softmax_*, softmax_*_bf16: 256 threads, 30 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   cross_entropy_forward, cross_entropy_forward_bf16: 256 threads, 24 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   cross_entropy_total: 256 threads, 20 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   cross_entropy_backward, cross_entropy_backward_bf16: 256 threads, 30 registers: 8 blocks on 9.0, 6 on 8.6

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
template <typename T> DEVICE Running row_running(const T *x, u64 cols, float *scratch) {
  constexpr int N = Row<T>::N;
  bool wide_x = wide<N>(x);
  Running r = {__int_as_float(0xff800000), 0.0f};
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N];
    take(a, x, i, count, wide_x);
#pragma unroll
    for (int j = 0; j < N; j++)
      if (j < count) see(r, a[j]);
  });
  float max = block_max<256>(r.max, scratch);
  // A thread without elements has sum 0 and max -∞.
  float sum = block_sum<256>(r.sum == 0.0f ? 0.0f : r.sum * (r.max == max ? 1.0f : expf(r.max - max)), scratch);
  // As in the definition: exp(∞ - ∞) is no number.
  return {max, max - max == 0.0f ? sum : __int_as_float(0x7fc00000)};
}

// y = exp(x - max) / Σ exp(x - max)
template <typename T> DEVICE void forward(T *y, const T *x, u64 cols) {
  constexpr int N = Row<T>::N;
  __shared__ float scratch[8];
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  bool wide_x = wide<N>(x), wide_y = wide<N>(y);
  Running r = row_running(x, cols, scratch);
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N];
    take(a, x, i, count, wide_x);
#pragma unroll
    for (int j = 0; j < N; j++) a[j] = expf(a[j] - r.max) / r.sum;
    give(y, i, a, count, wide_y, 0);
  });
}

// dx (+)= y ⊙ (gy - rowsum(gy ⊙ y))
template <typename T> DEVICE void backward(T *dx, const T *y, const T *gy, u64 cols, u32 add) {
  constexpr int N = Row<T>::N;
  __shared__ float scratch[8];
  y += blockIdx.x * cols, gy += blockIdx.x * cols, dx += blockIdx.x * cols;
  bool wide_y = wide<N>(y), wide_gy = wide<N>(gy), wide_dx = wide<N>(dx);
  float v = 0.0f;
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N], g[N];
    take(g, gy, i, count, wide_gy);
    take(a, y, i, count, wide_y);
#pragma unroll
    for (int j = 0; j < N; j++) v = fmaf(g[j], a[j], v);
  });
  float sum = block_sum<256>(v, scratch);
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N], g[N];
    take(a, y, i, count, wide_y);
    take(g, gy, i, count, wide_gy);
#pragma unroll
    for (int j = 0; j < N; j++) a[j] *= g[j] - sum;
    give(dx, i, a, count, wide_dx, add);
  });
}

static const u32 IGNORE = 0xffffffff;

// lse = max + ln Σ exp(x - max), loss = lse - x[target]: the logits are read once. NaN for a target beyond the
// vocabulary, since nothing can be reported without waiting; 0 in ignored rows, whatever they hold.
template <typename T> DEVICE void loss_forward(float *lse, float *losses, const T *x, const u32 *targets, u64 cols) {
  __shared__ float scratch[8];
  x += blockIdx.x * cols;
  Running r = row_running(x, cols, scratch);
  if (threadIdx.x) return;
  float l = r.max + logf(r.sum), loss = 0.0f;
  u32 target = targets[blockIdx.x];
  if (target != IGNORE) loss = target < cols ? l - to_f32(x[target]) : __int_as_float(0x7fc00000);
  lse[blockIdx.x] = l;
  losses[blockIdx.x] = loss;
}

// x = gy · factor · (exp(x - lse) - onehot), over the logits themselves.
template <typename T> DEVICE void loss_backward(T *x, const u32 *targets, const float *lse, const float *gy, u64 cols, float factor) {
  constexpr int N = Row<T>::N;
  x += blockIdx.x * cols;
  bool wide_x = wide<N>(x);
  u32 target = targets[blockIdx.x];
  float l = lse[blockIdx.x], scale = *gy * factor;
  each<N>(cols, [&](u64 i, u32 count) {
    float a[N] = {};
    if (target != IGNORE) {
      take(a, x, i, count, wide_x);
#pragma unroll
      for (int j = 0; j < N; j++) {
        float hit = target < cols ? (i + j == target ? 1.0f : 0.0f) : __int_as_float(0x7fc00000);
        a[j] = scale * (expf(a[j] - l) - hit);
      }
    }
    give(x, i, a, count, wide_x, 0);
  });
}

// loss = factor · Σ losses, by one block.
KERNEL(256) cross_entropy_total(float *loss, const float *losses, u64 rows, float factor) {
  __shared__ float scratch[8];
  float v = 0.0f;
  for (u64 i = threadIdx.x; i < rows; i += 256) v += losses[i];
  v = block_sum<256>(v, scratch);
  if (threadIdx.x == 0) *loss = v * factor;
}

#define SOFTMAX(T, name)                                                                                                  \
  KERNEL(256) softmax_forward##name(T *y, const T *x, u64 cols) { forward(y, x, cols); }                                  \
  KERNEL(256) softmax_backward##name(T *dx, const T *y, const T *gy, u64 cols, u32 add) { backward(dx, y, gy, cols, add); } \
  KERNEL(256) cross_entropy_forward##name(float *lse, float *losses, const T *x, const u32 *targets, u64 cols) {          \
    loss_forward(lse, losses, x, targets, cols);                                                                          \
  }                                                                                                                       \
  KERNEL(256)                                                                                                             \
  cross_entropy_backward##name(T *x, const u32 *targets, const float *lse, const float *gy, u64 cols, float factor) {     \
    loss_backward(x, targets, lse, gy, cols, factor);                                                                     \
  }
SOFTMAX(float, )
SOFTMAX(bf16, _bf16)
