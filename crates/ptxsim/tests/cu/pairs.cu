// Kernels in pairs: NAME_ok is correct, NAME_bad holds one fault.
#include <cstdint>
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
#define PAIR(name, params, args) template <bool BAD> __device__ void name params; extern "C" __global__ void name##_ok params { name<false> args; } extern "C" __global__ void name##_bad params { name<true> args; } template <bool BAD> __device__ void name params
__device__ __forceinline__ uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
PAIR(before_start, (const float* a, float* o, int n), (a, o, n)) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) o[i] = a[i] - ((BAD || i > 0) ? a[i - 1] : 0.f); }
PAIR(past_end, (const float* a, float* o, int n), (a, o, n)) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) o[i] = a[i] + ((BAD || i + 1 < n) ? a[i + 1] : 0.f); }
PAIR(shared_before, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; int t = threadIdx.x; s[t] = a[t]; __syncthreads(); o[t] = (BAD || t) ? s[t - 1] : 0.f; }
PAIR(dynamic_past, (const float* a, float* o, int n), (a, o, n)) { extern __shared__ float d[]; int t = threadIdx.x; d[t] = a[t]; if (t == 0) d[64 + BAD] = 1.f; __syncthreads(); o[t] = d[t] + d[64]; }
PAIR(warp_tail, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; int t = threadIdx.x; s[t] = a[t]; __syncthreads();
  if (t < 32) { for (int k = 32; k > 0; k >>= 1) { float v = s[t + (t + k < 64 ? k : 0)]; if (!BAD) __syncwarp(); s[t] += v; if (!BAD) __syncwarp(); } if (t == 0) o[0] = s[0]; } }
PAIR(loop_end, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[128]; int t = threadIdx.x; float x = 0; for (int k = 0; k < 3; k++) { s[t] = a[k * 128 + t]; __syncthreads(); x += s[127 - t]; if (!BAD) __syncthreads(); } o[t] = x; }
PAIR(half_warps, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; int t = threadIdx.x; s[t] = a[t]; if (!BAD || t < 40) __syncthreads(); o[t] = s[63 - t]; }
PAIR(shared_hole, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; int t = threadIdx.x; if (!BAD || t != 17) s[t] = a[t]; __syncthreads(); o[t] = s[63 - t]; }
PAIR(local_hole, (const int* a, int* o, int n), (a, o, n)) { int x[8]; int t = threadIdx.x; for (int i = 0; i < (BAD ? 7 : 8); i++) x[(i + a[0]) & 7] = i; o[t] = x[(t + a[0]) & 7]; }
PAIR(unset_value, (const int* a, int* o, int n), (a, o, n)) { int t = threadIdx.x, v = a[t]; if (BAD) asm volatile("{ .reg .u32 q; add.u32 %0, q, %1; }" : "=r"(v) : "r"(t)); o[t] = v; }
PAIR(misaligned, (const float* a, float2* o, int n), (a, o, n)) { o[threadIdx.x] = *(const float2*)(a + 2 * threadIdx.x + BAD); }
PAIR(overlap, (const float* a, float* o, int n), (a, o, n)) { int i = blockIdx.x * (BAD ? 31 : 32) + threadIdx.x; o[i] = a[i] + blockIdx.x; }
__device__ unsigned tick_ok, tick_bad;
PAIR(split_k, (const float* a, float* part, float* o), (a, part, o)) { __shared__ bool last; int t = threadIdx.x; part[blockIdx.x * 64 + t] = a[blockIdx.x * 64 + t]; 
  if (!BAD) __syncthreads(); if (t == 0) { __threadfence(); last = atomicAdd(BAD ? &tick_bad : &tick_ok, 1u) == gridDim.x - 1; } __syncthreads(); if (last) { __threadfence(); float v = 0; for (int b = 0; b < gridDim.x; b++) v += part[b * 64 + t]; o[t] = v; } }
__device__ unsigned tick2_ok, tick2_bad;
PAIR(no_fence, (const float* a, float* part, float* o), (a, part, o)) { __shared__ bool last; int t = threadIdx.x; part[blockIdx.x * 64 + t] = a[blockIdx.x * 64 + t]; if (!BAD) __threadfence(); __syncthreads();
  if (t == 0) last = atomicAdd(BAD ? &tick2_bad : &tick2_ok, 1u) == gridDim.x - 1; __syncthreads(); if (last) { __threadfence(); float v = 0; for (int b = 0; b < gridDim.x; b++) v += part[b * 64 + t]; o[t] = v; } }
PAIR(plain_count, (const int* a, int* o, int n), (a, o, n)) { if (a[threadIdx.x] > 2) { if (BAD) o[0] = o[0] + 1; else atomicAdd(o, 1); } }
PAIR(plain_count_shared, (const int* a, int* o, int n), (a, o, n)) { __shared__ int c; if (threadIdx.x == 0) c = 0; __syncthreads(); if (a[threadIdx.x] > 2) { if (BAD) c++; else atomicAdd(&c, 1); } __syncthreads(); if (threadIdx.x == 0) o[0] = c; }
PAIR(flush_early, (const int* a, int* o, int n), (a, o, n)) { __shared__ int h[16]; int t = threadIdx.x; if (t < 16) h[t] = 0; __syncthreads(); atomicAdd(&h[a[t] & 15], 1); if (!BAD) __syncthreads(); if (t < 16) atomicAdd(&o[t], h[t]); }
PAIR(zero_late, (const int* a, int* o, int n), (a, o, n)) { __shared__ int h[16]; int t = threadIdx.x; if (t < 16) h[t] = 0; if (!BAD) __syncthreads(); atomicAdd(&h[a[t] & 15], 1); __syncthreads(); if (t < 16) atomicAdd(&o[t], h[t]); }
PAIR(never_waits, (const float4* a, float4* o, int n), (a, o, n)) { __shared__ float4 s[64]; int t = threadIdx.x; asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(s32(&s[t])), "l"(a + t) : "memory"); asm volatile("cp.async.commit_group;" ::: "memory"); if (!BAD) asm volatile("cp.async.wait_group 0;" ::: "memory"); __syncthreads(); o[t] = s[63 - t]; }
PAIR(wrong_stage, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[2][64]; int t = threadIdx.x; asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(s32(&s[0][t])), "l"(a + t) : "memory"); asm volatile("cp.async.commit_group;" ::: "memory");
  for (int i = 0; i < 4; i++) { if (i < 3) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(s32(&s[(i + 1) & 1][t])), "l"(a + (i + 1) * 64 + t) : "memory"); asm volatile("cp.async.commit_group;" ::: "memory"); asm volatile("cp.async.wait_group 1;" ::: "memory"); __syncthreads(); o[i * 64 + t] = s[(i + BAD) & 1][63 - t]; __syncthreads(); } }
PAIR(grid_phase, (const int* a, int* o, int n), (a, o, n)) { auto g = cg::this_grid(); int i = g.thread_rank(); o[i] = a[i]; if (!BAD) g.sync(); o[n + i] = o[(i + 64) % n]; }
__device__ int lock_ok, lock_bad;
PAIR(unlocked, (const int* a, int* o, int n), (a, o, n)) { if (threadIdx.x == 0) { int* l = BAD ? &lock_bad : &lock_ok; while (atomicCAS(l, 0, 1)) ; __threadfence(); o[0] = o[0] + a[blockIdx.x]; if (!BAD) __threadfence(); atomicExch(l, 0); } }
PAIR(inplace, (float* x, float* o, int n), (x, o, n)) { int t = threadIdx.x; float l = x[(t + 127) % 128], r = x[(t + 1) % 128]; if (!BAD) __syncthreads(); x[t] = l + r; }
PAIR(shuffle_hole, (const int* a, int* o, int n), (a, o, n)) { int t = threadIdx.x, v = a[t]; if (t < 24) o[t] = __shfl_sync(0x00ffffff, v, BAD ? (t + 8) & 31 : (t + 8) % 24); }
PAIR(bar_ids, (const int* a, int* o, int n), (a, o, n)) { __shared__ int s[64]; int t = threadIdx.x; if (t < 64) { s[t] = a[t]; asm volatile("bar.arrive 3, 128;" ::: "memory"); } else { if (BAD) asm volatile("bar.sync 4, 64;" ::: "memory"); else asm volatile("bar.sync 3, 128;" ::: "memory"); o[t - 64] = s[t - 64]; } }
PAIR(ldm_rows, (const int* a, int* o, int n), (a, o, n)) { __shared__ alignas(16) int s[32 * 4 + 4]; int t = threadIdx.x; for (int i = t; i < 132; i += 32) s[i] = a[i]; __syncwarp(); int r[4]; asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s32(s) + 16 * t + 8 * BAD)); for (int i = 0; i < 4; i++) o[i * 32 + t] = r[i]; }
PAIR(recycled, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; __shared__ float total; int t = threadIdx.x; s[t] = a[t]; __syncthreads(); if (t == 0) { float v = 0; for (int i = 0; i < 64; i++) v += s[i]; total = v; } if (!BAD) __syncthreads(); o[t] = a[t] / total; }
PAIR(tile_bounds, (const float* a, float* o, int n), (a, o, n)) { int x = blockIdx.x * 16 + threadIdx.x, y = threadIdx.y; if (BAD ? x <= n : x < n) o[y * n + x] = 2.f * a[y * n + x]; }
PAIR(byte_race, (const unsigned char* a, unsigned char* o, int n), (a, o, n)) { __shared__ unsigned char s[64]; int t = threadIdx.x; s[t] = a[t]; if (!BAD) __syncwarp(); if (t < 32) o[t] = s[t ^ 1]; }
PAIR(flag_wait, (const int* a, int* o, int* f), (a, o, f)) { int t = threadIdx.x; if (blockIdx.x == 0) { o[t] = a[t]; __syncthreads(); if (t == 0) { if (!BAD) __threadfence(); atomicExch(f, 1); } } else { if (t == 0) { while (atomicAdd(f, 0) == 0) ; __threadfence(); } __syncthreads(); o[64 + t] = o[t] * 2; } }
