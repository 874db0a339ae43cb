// Kernels with planted faults beside their correct versions. FAULT selects one; 0 is correct; each version with a fault
// holds only the kernel it belongs to.
#include <cstdint>
#ifndef FAULT
#define FAULT 0
#endif
#define DEV __device__ __forceinline__
DEV uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void cpa16(uint32_t d, const void* s) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(d), "l"(s) : "memory"); }

#if !FAULT || FAULT == 1
// 1: the barrier between writing and reading shared memory is missing
extern "C" __global__ void reverse(const float* a, float* b) {
  __shared__ float s[256];
  int t = threadIdx.x;
  s[t] = a[blockIdx.x * 256 + t];
#if FAULT != 1
  __syncthreads();
#endif
  b[blockIdx.x * 256 + t] = s[255 - t];
}
#endif

#if !FAULT || FAULT == 2 || FAULT == 3
// 2: one barrier of a tree reduction is missing   3: the second barrier of a loop is missing
extern "C" __global__ void reduce(const float* a, float* out, int n) {
  __shared__ float s[256];
  int t = threadIdx.x;
  float total = 0;
  for (int base = 0; base < n; base += 256) {
    s[t] = a[base + t];
    __syncthreads();
    for (int k = 128; k > 0; k >>= 1) {
      if (t < k) s[t] += s[t + k];
#if FAULT != 2
      __syncthreads();
#endif
    }
    total += s[0];
#if FAULT != 3
    __syncthreads();
#endif
  }
  if (t == 0) out[blockIdx.x] = total;
}
#endif

#if !FAULT || FAULT == 4 || FAULT == 5 || FAULT == 6
// 4: wait_group one too lax   5: commit missing for the empty tail   6: barrier after the wait missing
extern "C" __global__ void pipeline(const float4* a, float4* b, int n) {
  __shared__ float4 s[3][128];
  int t = threadIdx.x;
  for (int i = 0; i < 2; i++) {
    if (i < n) cpa16(s32(&s[i][t]), a + i * 128 + t);
    asm volatile("cp.async.commit_group;\n" ::: "memory");
  }
  for (int i = 0; i < n; i++) {
#if FAULT == 4
    asm volatile("cp.async.wait_group 2;\n" ::: "memory");
#else
    asm volatile("cp.async.wait_group 1;\n" ::: "memory");
#endif
#if FAULT != 6
    __syncthreads();
#endif
    if (i + 2 < n) cpa16(s32(&s[(i + 2) % 3][t]), a + (i + 2) * 128 + t);
#if FAULT == 5
    if (i + 2 < n)
#endif
    asm volatile("cp.async.commit_group;\n" ::: "memory");
    b[i * 128 + t] = s[i % 3][127 - t];
  }
}
#endif

#if !FAULT || FAULT == 7
// 7: one element too many
extern "C" __global__ void scale(float* x, int n, float f) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
#if FAULT == 7
  if (i <= n) x[i] *= f;
#else
  if (i < n) x[i] *= f;
#endif
}
#endif

#if !FAULT || FAULT == 8 || FAULT == 9
// 8: two blocks write one cell   9: a block reads what another writes
extern "C" __global__ void stencil(const float* a, float* b) {
  int t = threadIdx.x, i = blockIdx.x * 64 + t;
#if FAULT == 8
  b[blockIdx.x * 63 + t] = a[i];
#elif FAULT == 9
  b[i] = a[i] + b[(i + 64) % (gridDim.x * 64)];
#else
  b[i] = a[i];
#endif
}
#endif

#if !FAULT || FAULT == 10
// 10: part of shared memory is never written
extern "C" __global__ void window(const float* a, float* b) {
  __shared__ float s[66];
  int t = threadIdx.x;
  s[t + 1] = a[t];
#if FAULT != 10
  if (t == 0) s[0] = s[65] = 0.f;
#endif
  __syncthreads();
  b[t] = s[t] + s[t + 1] + s[t + 2];
}
#endif

#if !FAULT || FAULT == 11
// 11: barrier in divergent flow
extern "C" __global__ void diverge(float* b) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = t;
#if FAULT == 11
  if (t & 1) { asm volatile("bar.sync 0;" ::: "memory"); b[t] = s[63 - t]; }
  else { asm volatile("bar.sync 0;" ::: "memory"); b[t] = s[63 - t] * 2; }
#else
  __syncthreads();
  b[t] = s[63 - t];
#endif
}
#endif

#if !FAULT || FAULT == 12
// 12: some warps never arrive: deadlock
extern "C" __global__ void named(float* b) {
  __shared__ float s[128];
  int t = threadIdx.x;
  if (t < 64) {
    s[t] = t;
    asm volatile("bar.arrive 1, 128;" ::: "memory");
  } else {
#if FAULT == 12
    asm volatile("bar.sync 1, 160;" ::: "memory");
#else
    asm volatile("bar.sync 1, 128;" ::: "memory");
#endif
    b[t - 64] = s[t - 64];
  }
}
#endif

#if !FAULT || FAULT == 13
// 13: lanes exchange through shared memory without __syncwarp
extern "C" __global__ void neighbours(const float* a, float* b) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = a[t];
#if FAULT != 13
  __syncwarp();
#endif
  b[t] = s[t ^ 1];
}
#endif

#if !FAULT || FAULT == 14
// 14: the fence before the ticket is missing
__device__ unsigned ticket;
extern "C" __global__ void last_block(const float* a, float* partial, float* out) {
  __shared__ bool last;
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = a[blockIdx.x * 64 + t];
  __syncthreads();
  if (t == 0) {
    float v = 0;
    for (int i = 0; i < 64; i++) v += s[i];
    partial[blockIdx.x] = v;
#if FAULT != 14
    __threadfence();
#endif
    last = atomicInc(&ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && t == 0) {
    __threadfence();
    float v = 0;
    for (int i = 0; i < gridDim.x; i++) v += ((volatile float*)partial)[i];
    *out = v;
  }
}
#endif

#if !FAULT || FAULT == 15
// 15: misaligned vector load
extern "C" __global__ void vectors(const float* a, float4* b) {
#if FAULT == 15
  b[threadIdx.x] = *(const float4*)(a + threadIdx.x * 4 + 1);
#else
  b[threadIdx.x] = *(const float4*)(a + threadIdx.x * 4);
#endif
}
#endif

#if !FAULT || FAULT == 16
// 16: half of a bf16 pair races; neighbours in one word do not
extern "C" __global__ void pairs(const unsigned short* a, unsigned short* b) {
  __shared__ unsigned short s[64];
  int t = threadIdx.x;
  s[t] = a[t];
#if FAULT == 16
  s[t ^ 32] = a[t] + 1;
#endif
  __syncthreads();
  b[blockIdx.x * 64 + t] = s[63 - t];
}
#endif

#if !FAULT || FAULT == 17
// 17: out of bounds of shared memory by one element
extern "C" __global__ void overrun(const float* a, float* b) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = a[t];
  __syncthreads();
#if FAULT == 17
  b[t] = s[t + 1];
#else
  b[t] = s[(t + 1) & 63];
#endif
}
#endif
