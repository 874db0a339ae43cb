// Things that ordinary programs use: cooperative groups, look-back scans, compare-and-swap loops, pointers to
// functions, virtual functions, wmma on doubles, 4-bit integers and bits, 8-bit floats.
#include <cstdint>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp8.h>
#include <mma.h>
namespace cg = cooperative_groups;
using namespace nvcuda;
typedef float (*op_t)(float, float);
__device__ float addf(float a, float b) { return a + b; }
__device__ float mulf(float a, float b) { return a * b; }
__device__ float subf(float a, float b) { return a - b; }
__device__ op_t table[3] = {addf, mulf, subf};
struct Base { __device__ virtual float f(float x) { return x; } };
struct Scale : Base { float k; __device__ Scale(float k) : k(k) {} __device__ float f(float x) override { return x * k; } };
struct Shift : Base { __device__ float f(float x) override { return x + 7; } };
__device__ unsigned g_flag[64];
__device__ int g_agg[64], g_pre[64];
extern __shared__ __align__(1024) unsigned char dyn[];
extern "C" {
__global__ void groups(const int* a, int* out, int n) {
  auto b = cg::this_thread_block(); auto w = cg::tiled_partition<32>(b);
  int v = 0; for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += a[i];
  v = cg::reduce(w, v, cg::plus<int>()); if (w.thread_rank() == 0) atomicAdd(out, v);
  auto q = cg::tiled_partition<8>(w); int m = cg::reduce(q, (int)threadIdx.x ^ 5, cg::greater<int>()); if (q.thread_rank() == 0) atomicMax(out + 1, m);
  if (threadIdx.x % 3 == 0) { auto g = cg::coalesced_threads(); int s = cg::reduce(g, 1, cg::plus<int>()); if (g.thread_rank() == 0) atomicAdd(out + 2, s); }
  auto lp = cg::labeled_partition(w, a[threadIdx.x] & 3); if (lp.thread_rank() == 0) atomicAdd(out + 3, lp.size() * lp.size());
}
__global__ void relax(float* x, float* out, int n, int iters) {
  auto g = cg::this_grid(); int i = g.thread_rank();
  for (int k = 0; k < iters; k++) { float l = x[(i + n - 1) % n], r = x[(i + 1) % n]; g.sync(); x[i] = 0.5f * (l + r); g.sync(); }
  out[i] = x[i];
}
__global__ void lookback(const int* a, int* out) {
  __shared__ int prefix, ws[4]; int b = blockIdx.x, t = threadIdx.x, s = a[b * 128 + t];
  for (int d = 1; d < 32; d <<= 1) { int y = __shfl_up_sync(~0u, s, d); if ((t & 31) >= d) s += y; }
  if ((t & 31) == 31) ws[t >> 5] = s; __syncthreads(); int off = 0; for (int i = 0; i < (t >> 5); i++) off += ws[i]; s += off;
  if (t == 127) { if (b == 0) { g_pre[0] = s; __threadfence(); atomicExch(&g_flag[0], 2u); } else { g_agg[b] = s; __threadfence(); atomicExch(&g_flag[b], 1u); } }
  if (t == 0) { int p = 0; for (int i = b - 1; i >= 0; i--) { unsigned f; do f = atomicAdd(&g_flag[i], 0u); while (f == 0); __threadfence(); if (f == 2) { p += ((volatile int*)g_pre)[i]; break; } p += ((volatile int*)g_agg)[i]; } prefix = p; }
  __syncthreads(); if (t == 127 && b > 0) { g_pre[b] = prefix + s; __threadfence(); atomicExch(&g_flag[b], 2u); }
  out[b * 128 + t] = s + prefix;
}
__global__ void largest(const float* a, float* mx, int* best) {
  int i = blockIdx.x * blockDim.x + threadIdx.x; int* p = (int*)mx; int old = *p, as;
  do { as = old; if (__int_as_float(as) >= a[i]) break; old = atomicCAS(p, as, __float_as_int(a[i])); } while (as != old);
  if (*best < (int)a[i]) atomicMax(best, (int)a[i]);
}
__global__ void nth(const unsigned* m, unsigned* o) { int t = threadIdx.x; o[t] = __fns(m[t], t, (t * 5) % 13 - 6); }
__global__ void pointers(const float* a, float* o) { int t = threadIdx.x; o[t] = table[t % 3](a[t], 2.f); op_t q = t & 1 ? addf : subf; o[32 + t] = q(a[t], 1.f); }
__global__ void methods(const float* a, float* o, int n) { Scale c(3.f); Shift e; Base* p = n > threadIdx.x ? (Base*)&c : (Base*)&e; o[threadIdx.x] = p->f(a[threadIdx.x]); }
__global__ void aligned_dynamic(int* o) { __shared__ int st[3]; int t = threadIdx.x; if (t < 3) st[t] = t; dyn[t] = t; __syncthreads(); o[t] = (__cvta_generic_to_shared(dyn) & 1023) + st[t % 3] + dyn[t ^ 1]; }
__global__ void fma_modes(const double* a, const double* b, const double* c, double* o) { int i = threadIdx.x; o[i * 3] = __fma_rz(a[i], b[i], c[i]); o[i * 3 + 1] = __fma_rd(a[i], b[i], c[i]); o[i * 3 + 2] = __fma_ru(a[i], b[i], c[i]); }
__global__ void bytes(const float* a, unsigned char* e4, unsigned char* e5, float* back) {
  int i = threadIdx.x; __nv_fp8_e4m3 x(a[i]); __nv_fp8_e5m2 y(a[i]); e4[i] = x.__x; e5[i] = y.__x; back[2 * i] = float(x); back[2 * i + 1] = float(y);
}
__global__ void doubles(const double* a, const double* b, double* c) { wmma::fragment<wmma::matrix_a, 8, 8, 4, double, wmma::row_major> fa; wmma::fragment<wmma::matrix_b, 8, 8, 4, double, wmma::col_major> fb; wmma::fragment<wmma::accumulator, 8, 8, 4, double> fc; wmma::fill_fragment(fc, 1.0); wmma::load_matrix_sync(fa, a, 4); wmma::load_matrix_sync(fb, b, 4); wmma::mma_sync(fc, fa, fb, fc); wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major); }
__global__ void nibbles(const void* a, const void* b, int* c) { using namespace wmma::experimental; wmma::fragment<wmma::matrix_a, 8, 8, 32, precision::s4, wmma::row_major> fa; wmma::fragment<wmma::matrix_b, 8, 8, 32, precision::s4, wmma::col_major> fb; wmma::fragment<wmma::accumulator, 8, 8, 32, int> fc; wmma::fill_fragment(fc, 0); wmma::load_matrix_sync(fa, a, 32); wmma::load_matrix_sync(fb, b, 32); wmma::mma_sync(fc, fa, fb, fc); wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major); }
__global__ void binary(const void* a, const void* b, int* c) { using namespace wmma::experimental; wmma::fragment<wmma::matrix_a, 8, 8, 128, precision::b1, wmma::row_major> fa; wmma::fragment<wmma::matrix_b, 8, 8, 128, precision::b1, wmma::col_major> fb; wmma::fragment<wmma::accumulator, 8, 8, 128, int> fc; wmma::fill_fragment(fc, 0); wmma::load_matrix_sync(fa, a, 128); wmma::load_matrix_sync(fb, b, 128); wmma::bmma_sync(fc, fa, fb, fc); wmma::store_matrix_sync(c, fc, 8, wmma::mem_row_major); }
#if __CUDA_ARCH__ >= 900
#define REMOTE(x) ({ uint32_t r; asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"((uint32_t)__cvta_generic_to_shared(x)), "r"(cg::this_cluster().block_rank() ^ 1)); r; })
__global__ void vector_atomics(float2* f, float4* g) { int t = threadIdx.x; atomicAdd(f, make_float2(t, 1.f)); atomicAdd(g, make_float4(1, 2, 3, t)); }
__global__ void __cluster_dims__(2, 1, 1) push(int* o, unsigned* sum) {
  __shared__ int s[64]; __shared__ unsigned u; __shared__ uint64_t bar; int t = threadIdx.x; uint32_t own = (uint32_t)__cvta_generic_to_shared(&bar); auto c = cg::this_cluster();
  if (t == 0) { u = 7; asm volatile("mbarrier.init.shared::cta.b64 [%0], 1; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 512;" ::"r"(own) : "memory"); } c.sync();
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(REMOTE(&s[t])), "r"(t + 100 * (int)c.block_rank()), "r"(REMOTE(&bar)) : "memory");
  asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" ::"r"(REMOTE(&u)), "r"(t), "r"(REMOTE(&bar)) : "memory");
  asm volatile("{ .reg .pred p; L: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0; @!p bra L; }" ::"r"(own) : "memory");
  o[blockIdx.x * 64 + t] = s[t]; if (t == 0) sum[blockIdx.x] = u; c.sync();
}
#endif
}
