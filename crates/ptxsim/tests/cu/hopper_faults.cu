// Hopper kernels (TMA, mbarrier, wgmma) with planted faults; FAULT 0 is correct.
#include <cstdint>
#ifndef FAULT
#define FAULT 0
#endif
#define DEV __device__ __forceinline__
struct alignas(128) Map { char b[128]; };
DEV uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void mb_init(uint32_t b, uint32_t n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
DEV void mb_expect(uint32_t b, uint32_t n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
DEV void mb_arrive(uint32_t b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
DEV void mb_wait(uint32_t b, uint32_t ph) {
  asm volatile("{\n.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra.uni D;\nbra.uni L;\nD:\n}" ::"r"(b), "r"(ph) : "memory");
}
DEV void tma_load(uint32_t d, const Map* m, int x, int y, uint32_t b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(d), "l"(m), "r"(b), "r"(x), "r"(y) : "memory");
}
DEV void tma_store(const Map* m, int x, int y, uint32_t s) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(m), "r"(s), "r"(x), "r"(y) : "memory");
}
DEV void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
DEV void bulk_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEV void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEV uint64_t desc(uint32_t a) { return (uint64_t)((a & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62; }
DEV void wgmma16(float (&c)[8], uint64_t da, uint64_t db, int scale) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\nwgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, p, 1, 1, 0, 0;\n}"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]) : "l"(da), "l"(db), "r"(scale));
}

// Tiles of 32 rows of 32 floats: load by TMA, add one, store by TMA.
extern "C" __global__ void add_one(const __grid_constant__ Map in, const __grid_constant__ Map out) {
  __shared__ alignas(1024) float s[32][32];
  __shared__ alignas(8) uint64_t bar;
  int t = threadIdx.x, x = blockIdx.x * 32, y = blockIdx.y * 32;
  if (t == 0) { mb_init(s32(&bar), 1); proxy_fence(); }
#if FAULT != 9
  __syncthreads();
#endif
  if (t == 0) { mb_expect(s32(&bar), FAULT == 5 ? 4112 : 4096); tma_load(s32(s), &in, x, y, s32(&bar)); }
#if FAULT == 3
  if (t == 0)
#endif
  mb_wait(s32(&bar), 0);
  for (int r = t / 32; r < 32; r += 4) s[r][t % 32] += 1.f;
#if FAULT != 1
  proxy_fence();
#endif
#if FAULT != 6
  __syncthreads();
#endif
  if (t == 0) {
    tma_store(&out, x, y, s32(s)); bulk_commit();
#if FAULT == 7
    s[0][0] = 5.f;
#endif
    bulk_wait();
  }
}

// C[64,16] = A[64,K] B[16,K]^T in bf16: one producer warp, one consumer warpgroup, two stages.
extern "C" __global__ void __launch_bounds__(160) gemm_ws(const __grid_constant__ Map mA, const __grid_constant__ Map mB, float* C, int K) {
  __shared__ alignas(1024) unsigned short sA[2][64 * 64];
  __shared__ alignas(1024) unsigned short sB[2][16 * 64];
  __shared__ alignas(8) uint64_t full[2], empty[2];
  int t = threadIdx.x, nk = K / 64;
  if (t == 0) {
    for (int i = 0; i < 2; i++) { mb_init(s32(&full[i]), 1); mb_init(s32(&empty[i]), 128); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (t >= 128) {
    if (t == 128)
      for (int k = 0; k < nk; k++) {
        int s = k & 1;
#if FAULT != 4
        mb_wait(s32(&empty[s]), ((k >> 1) & 1) ^ 1);
#endif
        mb_expect(s32(&full[s]), (64 + 16) * 128);
        tma_load(s32(sA[s]), &mA, k * 64, 0, s32(&full[s]));
        tma_load(s32(sB[s]), &mB, k * 64, 0, s32(&full[s]));
      }
  } else {
    float acc[8];
    for (int k = 0; k < nk; k++) {
      int s = k & 1;
#if FAULT == 2
      mb_wait(s32(&full[s]), 0);
#else
      mb_wait(s32(&full[s]), (k >> 1) & 1);
#endif
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      for (int kk = 0; kk < 4; kk++) wgmma16(acc, desc(s32(sA[s]) + kk * 32), desc(s32(sB[s]) + kk * 32), k + kk > 0);
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#if FAULT == 10
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
#elif FAULT != 8
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
      mb_arrive(s32(&empty[s]));
    }
    int w = t / 32, l = t % 32;
    for (int j = 0; j < 2; j++)
      for (int h = 0; h < 2; h++) {
        int r = w * 16 + l / 4 + 8 * h, c = j * 8 + l % 4 * 2;
        C[r * 16 + c] = acc[4 * j + 2 * h];
        C[r * 16 + c + 1] = acc[4 * j + 2 * h + 1];
      }
  }
}
