// What every kernel file shares: names of types, storage types, sums over a block. No CUDA header is included anywhere.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
// A kernel for blocks of `threads` threads.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

// The upper half of an f32, and IEEE half: storage only; arithmetic is f32.
struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __int_as_float((u32)x.bits << 16); }
DEVICE float to_f32(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest even; NaN stays NaN.
template <typename T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE bf16 from_f32<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <> DEVICE f16 from_f32<f16>(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// y = v, or y += v in f32.
template <typename T> DEVICE void put(T *y, float v, u32 add) { *y = from_f32<T>(add ? to_f32(*y) + v : v); }

// Index of this thread among all, for one-dimensional grids.
DEVICE u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// Sum over the 32 lanes of a warp, in every lane.
DEVICE float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// NaN wins, as in the definition of Reduce::Max; fmaxf would drop it.
DEVICE float max_nan(float a, float b) { return a > b || a != a ? a : b; }

DEVICE float warp_max(float v) {
#pragma unroll
  for (int d = 16; d; d >>= 1) v = max_nan(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

// Sum over a block of THREADS threads, in every thread, in a fixed order. `scratch` holds THREADS / 32 floats and may
// be used again at once: both ends are barriers.
template <int THREADS> DEVICE float block_sum(float v, float *scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = scratch[0];
#pragma unroll
  for (int i = 1; i < THREADS / 32; i++) sum += scratch[i];
  __syncthreads();
  return sum;
}

template <int THREADS> DEVICE float block_max(float v, float *scratch) {
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float top = scratch[0];
#pragma unroll
  for (int i = 1; i < THREADS / 32; i++) top = max_nan(top, scratch[i]);
  __syncthreads();
  return top;
}
