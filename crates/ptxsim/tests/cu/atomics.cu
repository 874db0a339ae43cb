// Atomics, locks, grid-wide synchronisation, libcu++ barriers and pipelines.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void k_atom(int* p, unsigned* u, float* f, double* d, unsigned long long* l, long long* sl, __half2* h, __nv_bfloat162* b, __half* hh, __nv_bfloat16* bb) {
  int t = threadIdx.x + blockIdx.x * blockDim.x;
  atomicAdd(p, t); atomicSub(p + 1, t); atomicMin(p + 2, t); atomicMax(p + 3, t); atomicAnd(p + 4, ~(1 << (t & 15))); atomicOr(p + 5, 1 << (t & 15)); atomicXor(p + 6, t);
  p[64 + t] = atomicExch(p + 8, t); p[192 + t] = atomicCAS(p + 9, t, 5); u[64 + t] = atomicInc(u, 40); atomicDec(u + 1, 31);
  atomicAdd(f, 1.5f); f[64 + t] = atomicAdd(f + 1, 2.f); atomicAdd(d, 2.0); atomicAdd(l, 3ull); atomicMax(l + 2, (unsigned long long)t); atomicMin(sl, -(long long)t);
  atomicAdd(h, __float2half2_rn(1.f)); atomicAdd(b, __float2bfloat162_rn(1.f)); atomicAdd(hh, __float2half(1.f)); atomicAdd(bb, __float2bfloat16(2.f));
  atomicAdd_block(p + 11, 1); atomicAdd_system(p + 12, 1);
}
extern "C" __global__ void k_histogram(const unsigned char* a, int* out, int n) {
  __shared__ int s[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) s[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&s[a[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&out[i], s[i]);
}
extern "C" __global__ void k_lock(int* lock, int* count) {
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(lock, 0, 1) != 0) __nanosleep(20);
    __threadfence(); *count = *count + 1; __threadfence(); atomicExch(lock, 0);
  }
}
extern "C" __global__ void k_lanelock(int* lock, int* count) {
  bool done = false;
  while (!done) { if (atomicCAS(lock, 0, 1) == 0) { __threadfence(); *(volatile int*)count += 1; __threadfence(); atomicExch(lock, 0); done = true; } }
}
extern "C" __global__ void k_flag(volatile int* flag, int* data, int* out) {
  if (blockIdx.x == 1) { if (threadIdx.x == 0) { data[0] = 42; __threadfence(); flag[0] = 1; } }
  else if (threadIdx.x == 0) { while (flag[0] == 0) {} __threadfence(); out[0] = data[0]; }
}
extern "C" __global__ void k_grid(int* a, int* b) {
  auto g = cooperative_groups::this_grid(); int r = g.thread_rank(), n = g.size();
  a[r] = r; g.sync(); b[r] = a[n - 1 - r]; g.sync(); a[r] = b[(r + 1) % n];
}
extern "C" __global__ void k_cupipe(const float* a, float* b, int n) {
  __shared__ float s[2][128]; auto p = cuda::make_pipeline();
  for (int i = 0; i < n; i++) {
    p.producer_acquire(); cuda::memcpy_async(&s[i & 1][threadIdx.x], a + i * 128 + threadIdx.x, 4, p); p.producer_commit(); p.consumer_wait(); __syncthreads();
    b[i * 128 + threadIdx.x] = s[i & 1][127 - threadIdx.x]; __syncthreads(); p.consumer_release();
  }
}
extern "C" __global__ void k_cubar(const int* a, int* b) {
  using B = cuda::barrier<cuda::thread_scope_block>; __shared__ B bar; __shared__ int s[128];
  if (threadIdx.x == 0) init(&bar, blockDim.x);
  __syncthreads(); s[threadIdx.x] = a[threadIdx.x]; auto t = bar.arrive(); bar.wait(std::move(t)); b[threadIdx.x] = s[127 - threadIdx.x];
  bar.arrive_and_wait(); s[threadIdx.x] = b[threadIdx.x] * 2; bar.arrive_and_wait(); b[threadIdx.x] = s[127 - threadIdx.x];
}
extern "C" __global__ void k_cgmemcpy(const int* a, int* b) {
  __shared__ int s[256]; auto g = cooperative_groups::this_thread_block(); cooperative_groups::memcpy_async(g, s, a, sizeof(int) * 256); cooperative_groups::wait(g); b[threadIdx.x] = s[255 - threadIdx.x];
}
