// Warp-level operations and block-wide patterns.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cstdint>
namespace cg = cooperative_groups;
extern "C" __global__ void k_shfl(const int* p, int* q, const uint64_t* l, uint64_t* m) {
  int t = threadIdx.x, x = p[t];
  q[t] = __shfl_sync(~0u, x, 3); q[32 + t] = __shfl_up_sync(~0u, x, 2, 16); q[64 + t] = __shfl_down_sync(~0u, x, 3, 8);
  q[96 + t] = __shfl_xor_sync(~0u, x, 5); q[128 + t] = __shfl_sync(~0u, x, t * 7, 8); m[t] = __shfl_xor_sync(~0u, l[t], 9);
}
extern "C" __global__ void k_vote(const int* p, uint32_t* q) {
  int t = threadIdx.x, x = p[t], pr;
  q[t] = __any_sync(~0u, x > 3) + __all_sync(~0u, x > 1) * 2 + __all_sync(~0u, x >= 0) * 4; q[32 + t] = __ballot_sync(~0u, x & 1);
  q[64 + t] = __match_any_sync(~0u, x); q[96 + t] = __match_all_sync(~0u, x, &pr) + pr; q[128 + t] = __match_all_sync(~0u, 7, &pr) + pr;
  q[160 + t] = __reduce_add_sync(~0u, x); q[192 + t] = __reduce_max_sync(~0u, x); q[224 + t] = __reduce_min_sync(~0u, x - 9);
  q[256 + t] = __reduce_xor_sync(~0u, (unsigned)x); q[288 + t] = __syncthreads_count(x > 3); q[320 + t] = __syncthreads_and(x >= 0); q[352 + t] = __syncthreads_or(x > 1000);
}
extern "C" __global__ void k_divergent(const int* p, int* q) {
  int t = threadIdx.x, x = p[t];
  if (t & 1) { x = __shfl_xor_sync(0xaaaaaaaa, x, 2); q[t] = x + __popc(__activemask()); } else { for (int i = 0; i < t; i++) x += i; q[t] = __shfl_xor_sync(0x55555555, x, 4); }
  __syncwarp();
  q[32 + t] = __shfl_sync(~0u, x, 31 - t);
}
extern "C" __global__ void k_cg(const float* f, float* g) {
  auto b = cg::this_thread_block(); auto w = cg::tiled_partition<32>(b); auto w8 = cg::tiled_partition<8>(b);
  int t = b.thread_rank(); float x = f[t];
  g[t] = cg::reduce(w, x, cg::plus<float>()); g[64 + t] = cg::reduce(w8, x, cg::greater<float>()); b.sync();
  g[128 + t] = w8.shfl_down(x, 1) ; g[192 + t] = w8.meta_group_rank();
  if (x > 5.f) { auto c = cg::coalesced_threads(); g[256 + t] = c.size() * 100 + c.thread_rank(); c.sync(); } else g[256 + t] = -1;
}
template <int N> __device__ float block_reduce(float v) {
  __shared__ float sm[32]; int l = threadIdx.x & 31, w = threadIdx.x >> 5;
  for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
  if (l == 0) sm[w] = v;
  __syncthreads();
  v = threadIdx.x < (blockDim.x >> 5) ? sm[l] : 0;
  if (w == 0) for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
  return v;
}
extern "C" __global__ void k_softmax(const float* __restrict__ x, float* __restrict__ y, int n) {
  extern __shared__ float buf[]; float m = -INFINITY;
  for (int i = threadIdx.x; i < n; i += blockDim.x) { buf[i] = x[blockIdx.x * n + i]; m = fmaxf(m, buf[i]); }
  __shared__ float red[32];
  for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
  if ((threadIdx.x & 31) == 0) red[threadIdx.x >> 5] = m;
  __syncthreads(); m = red[0]; for (int i = 1; i < blockDim.x / 32; i++) m = fmaxf(m, red[i]); __syncthreads();
  float s = 0; for (int i = threadIdx.x; i < n; i += blockDim.x) { float e = __expf(buf[i] - m); buf[i] = e; s += e; }
  s = block_reduce<1>(s); __shared__ float tot; if (threadIdx.x == 0) tot = s; __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = buf[i] / tot;
}
extern "C" __global__ void k_transpose(const float* a, float* b, int n) {
  __shared__ float t[32][33]; int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32;
  for (int i = threadIdx.y; i < 32; i += 8) if (x < n && y + i < n) t[i][threadIdx.x] = a[(y + i) * n + x];
  __syncthreads(); x = blockIdx.y * 32 + threadIdx.x; y = blockIdx.x * 32;
  for (int i = threadIdx.y; i < 32; i += 8) if (x < n && y + i < n) b[(y + i) * n + x] = t[threadIdx.x][i];
}
extern "C" __global__ void k_hints(const float* a, float* b, const int4* c, int4* d) {
  int t = threadIdx.x; b[t] = __ldcs(a + t) + __ldca(a + t + 1) + __ldcg(a + t + 2) + __ldlu(a + t) + __ldcv(a + t); __stcs(b + t + 32, 1.f); __stcg(b + 64 + t, 2.f); __stwt(b + 96 + t, 3.f); d[t] = __ldcs(c + t);
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.s32 {%0,%1,%2,%3},[%4];" : "=r"(d[32 + t].x), "=r"(d[32 + t].y), "=r"(d[32 + t].z), "=r"(d[32 + t].w) : "l"(c + t));
}
