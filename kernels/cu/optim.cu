#include "common.cuh"

// Gradient norm and optimisers over many tensors in one launch: their addresses come as the kernel's own parameter (4 KiB
// at most on the oldest drivers), and a block finds its tensor by its number. What changes from step to step is read from
// the scalar buffer on the device.
//   floor, in bytes an element: grad_squares 4; adamw 28 (p, m, v and g read, p, m and v written); sgd 12, with momentum 20.
//   It is met: ptxsim counts exactly these sectors (tests/traffic.rs asserts it) and a sector a warp for each scalar;
//   grad_norm reads a float for each 4096 elements by one block
//   grad_squares, grad_norm: 256 threads, 23 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   adamw: 256 threads, 32 registers: 8 blocks on 9.0, 6 on 8.6
//   sgd: 256 threads, 24 registers: 8 blocks on 9.0, 6 on 8.6
static const u32 NORM_TENSORS = 160, ADAM_TENSORS = 80, SGD_TENSORS = 100;
// Elements of one block: a tensor's last block may be shorter, and no block spans two tensors.
static const u32 CHUNK = 4096;
// Places in the scalar buffer.
static const u32 CLIP = 1, NORM = 2, CORRECTION1 = 3, CORRECTION2 = 4;

// The tensor of a block: the last one whose first block is not after it.
DEVICE u32 find(const u32 *first, u32 count) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    u32 middle = (low + high) / 2;
    if (first[middle] <= blockIdx.x)
      low = middle;
    else
      high = middle;
  }
  return low;
}

struct Gradients {
  const float *g[NORM_TENSORS];
  u64 len[NORM_TENSORS];
  u32 first[NORM_TENSORS];
};

// parts[block] = Σ g² over its elements.
KERNEL(256) grad_squares(float *parts, u32 count, const __grid_constant__ Gradients t) {
  __shared__ float scratch[8];
  u32 which = find(t.first, count);
  const float *g = t.g[which];
  u64 begin = (u64)(blockIdx.x - t.first[which]) * CHUNK, end = begin + CHUNK < t.len[which] ? begin + CHUNK : t.len[which];
  float v = 0.0f;
  for (u64 i = begin + threadIdx.x; i < end; i += 256) v = fmaf(g[i], g[i], v);
  v = block_sum<256>(v, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = v;
}

// norm = √Σ parts; clip = min(1, max_norm / (norm + 1e-6)), 1 without max_norm (given as 0), NaN for a norm that is not
// finite. One block.
KERNEL(256) grad_norm(float *scalars, const float *parts, u64 count, float max_norm) {
  __shared__ float scratch[8];
  float v = 0.0f;
  for (u64 i = threadIdx.x; i < count; i += 256) v += parts[i];
  float norm = sqrtf(block_sum<256>(v, scratch));
  if (threadIdx.x) return;
  float clip = max_norm > 0.0f ? max_norm / (norm + 1e-6f) : 1.0f;
  if (clip > 1.0f) clip = 1.0f;
  // norm - norm is 0, or NaN if it is not finite.
  scalars[NORM] = norm;
  scalars[CLIP] = clip + (norm - norm);
}

struct Adam {
  float *p[ADAM_TENSORS], *m[ADAM_TENSORS], *v[ADAM_TENSORS];
  const float *g[ADAM_TENSORS];
  u64 len[ADAM_TENSORS];
  u32 first[ADAM_TENSORS];
};

// g ← clip·g; m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; p ← p - lr (wd·p + (m/c₁) / (√(v/c₂) + eps))
// (Loshchilov & Hutter 2019, algorithm 2)
KERNEL(256)
adamw(const float *scalars, u32 count, u32 lr_at, float beta1, float rest1, float beta2, float rest2, float eps, float decay,
      const __grid_constant__ Adam t) {
  u32 which = find(t.first, count);
  float *p = t.p[which], *m = t.m[which], *v = t.v[which];
  const float *g = t.g[which];
  float clip = scalars[CLIP], c1 = scalars[CORRECTION1], c2 = scalars[CORRECTION2], lr = scalars[lr_at];
  u64 begin = (u64)(blockIdx.x - t.first[which]) * CHUNK, end = begin + CHUNK < t.len[which] ? begin + CHUNK : t.len[which];
  for (u64 i = begin + threadIdx.x; i < end; i += 256) {
    float d = clip * g[i], one = beta1 * m[i] + rest1 * d, two = beta2 * v[i] + rest2 * (d * d), old = p[i];
    m[i] = one;
    v[i] = two;
    p[i] = old - lr * (decay * old + (one / c1) / (sqrtf(two / c2) + eps));
  }
}

struct Descent {
  float *p[SGD_TENSORS], *u[SGD_TENSORS];
  const float *g[SGD_TENSORS];
  u64 len[SGD_TENSORS];
  u32 first[SGD_TENSORS];
};

// g ← clip·g; u ← μu + g where there is a u; p ← p - lr (wd·p + u)
KERNEL(256)
sgd(const float *scalars, u32 count, u32 lr_at, float momentum, float decay, const __grid_constant__ Descent t) {
  u32 which = find(t.first, count);
  float *p = t.p[which], *u = t.u[which];
  const float *g = t.g[which];
  float clip = scalars[CLIP], lr = scalars[lr_at];
  u64 begin = (u64)(blockIdx.x - t.first[which]) * CHUNK, end = begin + CHUNK < t.len[which] ? begin + CHUNK : t.len[which];
  for (u64 i = begin + threadIdx.x; i < end; i += 256) {
    float step = clip * g[i], old = p[i];
    if (u) {
      step = momentum * u[i] + step;
      u[i] = step;
    }
    p[i] = old - lr * (decay * old + step);
  }
}
