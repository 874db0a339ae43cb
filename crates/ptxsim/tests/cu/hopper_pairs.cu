// Kernels of sm_90a in pairs: NAME_ok is correct, NAME_bad holds one fault.
#include <cstdint>
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
#define PAIR(name, params, args) template <bool BAD> __device__ void name params; extern "C" __global__ void name##_ok params { name<false> args; } extern "C" __global__ void name##_bad params { name<true> args; } template <bool BAD> __device__ void name params
#define CPAIR(name, params, args) template <bool BAD> __device__ void name params; extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_ok params { name<false> args; } extern "C" __global__ void __cluster_dims__(2, 1, 1) name##_bad params { name<true> args; } template <bool BAD> __device__ void name params
#define DEV __device__ __forceinline__
DEV uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void mb_init(uint32_t b, uint32_t n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
DEV void mb_expect(uint32_t b, uint32_t n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
DEV void mb_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
DEV void mb_wait(uint32_t b, uint32_t ph) { asm volatile("{\n.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\nbra L;\nD:\n}" ::"r"(b), "r"(ph) : "memory"); }
DEV void bulk_load(uint32_t d, const void* s, uint32_t n, uint32_t b) { asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(d), "l"(s), "r"(n), "r"(b) : "memory"); }
DEV void bulk_store(void* d, uint32_t s, uint32_t n) { asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(d), "r"(s), "r"(n) : "memory"); }
DEV void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
DEV void bulk_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEV void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEV void init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// A ring of two stages. 1: wrong phase  2: wrong count of arrivals  3, 4: wrong number of bytes  5: no barrier after the
// initialisation  6: the producer does not wait  7: wrong stage
template <int FAULT> DEV void ring(const float* a, float* o, int n) {
  __shared__ alignas(128) float s[2][64]; __shared__ alignas(8) uint64_t full[2], empty[2]; int t = threadIdx.x;
  if (t == 0) { for (int i = 0; i < 2; i++) { mb_init(s32(&full[i]), 1); mb_init(s32(&empty[i]), FAULT == 2 ? 65 : 64); } init_fence(); } if (FAULT != 5) __syncthreads();
  if (t >= 64) { if (t == 64) for (int k = 0; k < n; k++) { int i = k & 1; if (k >= 2 && FAULT != 6) mb_wait(s32(&empty[i]), ((k >> 1) - 1) & 1); mb_expect(s32(&full[i]), FAULT == 3 ? 272 : FAULT == 4 ? 240 : 256); bulk_load(s32(s[FAULT == 7 ? i ^ 1 : i]), a + k * 64, 256, s32(&full[i])); } }
  else for (int k = 0; k < n; k++) { int i = k & 1; mb_wait(s32(&full[i]), FAULT == 1 ? 1 ^ (k >> 1 & 1) : (k >> 1) & 1); o[k * 64 + t] = s[i][63 - t]; mb_arrive(s32(&empty[i])); }
}
extern "C" __global__ void ring_ok(const float* a, float* o, int n) { ring<0>(a, o, n); }
extern "C" __global__ void ring_phase(const float* a, float* o, int n) { ring<1>(a, o, n); }
extern "C" __global__ void ring_count(const float* a, float* o, int n) { ring<2>(a, o, n); }
extern "C" __global__ void ring_expect_more(const float* a, float* o, int n) { ring<3>(a, o, n); }
extern "C" __global__ void ring_expect_less(const float* a, float* o, int n) { ring<4>(a, o, n); }
extern "C" __global__ void ring_init(const float* a, float* o, int n) { ring<5>(a, o, n); }
extern "C" __global__ void ring_overrun(const float* a, float* o, int n) { ring<6>(a, o, n); }
extern "C" __global__ void ring_stage(const float* a, float* o, int n) { ring<7>(a, o, n); }
PAIR(reused, (const float* a, float* o, int n), (a, o, n)) { __shared__ alignas(128) float s[64]; int t = threadIdx.x; s[t] = a[t] * 2; proxy_fence(); __syncthreads(); if (t == 0) { bulk_store(o, s32(s), 256); bulk_commit(); if (!BAD) bulk_wait(); } __syncthreads(); s[t] = a[64 + t]; proxy_fence(); __syncthreads(); if (t == 0) { bulk_store(o + 64, s32(s), 256); bulk_commit(); bulk_wait(); } }
PAIR(odd_place, (const float* a, float* o, int n), (a, o, n)) { __shared__ alignas(128) float s[128]; __shared__ alignas(8) uint64_t bar; int t = threadIdx.x; if (t == 0) { mb_init(s32(&bar), 1); init_fence(); } __syncthreads(); if (t == 0) { mb_expect(s32(&bar), 256); bulk_load(s32(s) + 8 * BAD, a, 256, s32(&bar)); } mb_wait(s32(&bar), 0); o[t] = s[63 - t]; }
PAIR(odd_size, (const float* a, float* o, int n), (a, o, n)) { __shared__ alignas(128) float s[128]; __shared__ alignas(8) uint64_t bar; int t = threadIdx.x; if (t == 0) { mb_init(s32(&bar), 1); init_fence(); } __syncthreads(); if (t == 0) { mb_expect(s32(&bar), 256 - 8 * BAD); bulk_load(s32(s), a, 256 - 8 * BAD, s32(&bar)); } mb_wait(s32(&bar), 0); if (t < 62) o[t] = s[t]; }
PAIR(stale_store, (const float* a, float* o, int n), (a, o, n)) { __shared__ alignas(128) float s[64]; int t = threadIdx.x; s[t] = a[t]; if (!BAD) proxy_fence(); __syncthreads(); if (t == 0) { bulk_store(o, s32(s), 256); bulk_commit(); bulk_wait(); } }
CPAIR(peer_gone, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; auto c = cg::this_cluster(); int t = threadIdx.x; s[t] = a[blockIdx.x * 64 + t]; c.sync(); const float* r = c.map_shared_rank(s, c.block_rank() ^ 1); if (c.block_rank() == 0) { for (int i = 0; i < n; i++) asm volatile("nanosleep.u32 1;"); o[t] = r[t]; } else o[64 + t] = s[t]; if (!BAD) c.sync(); }
CPAIR(peer_early, (const float* a, float* o, int n), (a, o, n)) { __shared__ float s[64]; auto c = cg::this_cluster(); int t = threadIdx.x; s[t] = a[blockIdx.x * 64 + t]; if (BAD) __syncthreads(); else c.sync(); const float* r = c.map_shared_rank(s, c.block_rank() ^ 1); o[blockIdx.x * 64 + t] = r[63 - t]; c.sync(); }
CPAIR(peer_race, (const float* a, float* o, int n), (a, o, n)) { __shared__ int x; auto c = cg::this_cluster(); if (threadIdx.x == 0) x = 0; c.sync(); int* r = c.map_shared_rank(&x, 0); if (BAD) *r += 1; else atomicAdd(r, 1); c.sync(); if (c.block_rank() == 0 && threadIdx.x == 0) o[0] = x; }
CPAIR(peer_bounds, (const float* a, float* o, int n), (a, o, n)) { __shared__ int x[32]; auto c = cg::this_cluster(); x[threadIdx.x & 31] = 5; c.sync(); int* r = c.map_shared_rank(x, c.block_rank() ^ 1); o[blockIdx.x * 64 + threadIdx.x] = r[(threadIdx.x & 31) + BAD]; c.sync(); }
// D[64,8] += A[64,16] B[8,16]^T without swizzle.
DEV uint64_t desc(uint32_t a, uint32_t lead, uint32_t stride) { return (uint64_t)(a >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32; }
template <int FAULT> DEV void wg(const unsigned short* a, const unsigned short* b, float* o) {
  __shared__ alignas(128) unsigned short sa[64 * 16], sb[8 * 16]; int t = threadIdx.x;
  for (int i = t; i < 1024; i += 128) { int r = i / 16, c = i % 16; sa[r / 8 * 128 + c / 8 * 64 + r % 8 * 8 + c % 8] = a[i]; } { int r = t / 16, c = t % 16; sb[c / 8 * 64 + r * 8 + c % 8] = b[t]; }
  if (FAULT != 5) proxy_fence(); if (FAULT != 6) __syncthreads(); float d[4]; for (int i = 0; i < 4; i++) d[i] = FAULT == 2 ? a[t] * 2.f : 1.f;
  if (FAULT != 1) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(desc(s32(sa), 128, 256)), "l"(desc(s32(sb), 128, 256)) : "memory");
  if (FAULT != 3) asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); if (FAULT != 4) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 4; i++) o[(t / 32 * 16 + t % 32 / 4 + i / 2 * 8) * 8 + t % 4 * 2 + i % 2] = d[i] + 0.5f;
}
#define WG(name, f) extern "C" __global__ void name(const unsigned short* a, const unsigned short* b, float* o) { wg<f>(a, b, o); }
WG(wg_ok, 0) WG(wg_no_fence, 1) WG(wg_no_commit, 3) WG(wg_no_wait, 4) WG(wg_no_proxy, 5) WG(wg_no_sync, 6)
