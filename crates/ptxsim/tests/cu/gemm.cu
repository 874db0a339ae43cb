// bf16 GEMM for Ampere: C[M,N] = A[M,K] B[N,K]^T. cp.async in three stages -> ldmatrix -> mma.sync.m16n8k16.
// Tiles 128 x 128 x 32 for 8 warps of 32 x 64; rows padded to 40 elements so that ldmatrix meets no bank twice.
#include <cstdint>
#define DEV __device__ __forceinline__
typedef unsigned short bf16;
DEV uint32_t s32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
DEV void cpa16(uint32_t d, const void* s) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(d), "l"(s)); }
DEV void ldm4(uint32_t* r, uint32_t a) { asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a)); }
DEV void mma(float* c, const uint32_t* a, const uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"
    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
constexpr int BM = 128, BN = 128, BK = 32, ST = 3, LD = BK + 8;
extern "C" __global__ void __launch_bounds__(256) gemm_bf16(const bf16* __restrict__ A, const bf16* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  extern __shared__ __align__(16) unsigned char raw[];
  bf16(*sA)[BM][LD] = reinterpret_cast<bf16(*)[BM][LD]>(raw);
  bf16(*sB)[BN][LD] = reinterpret_cast<bf16(*)[BN][LD]>(raw + ST * BM * LD * 2);
  int t = threadIdx.x, w = t / 32, l = t % 32, wm = w % 4, wn = w / 4, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  float acc[2][8][4] = {};
  auto load = [&](int s, int k0) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int id = t + i * 256, r = id / 4, c = id % 4 * 8;
      cpa16(s32(&sA[s][r][c]), A + (size_t)(m0 + r) * K + k0 + c);
      cpa16(s32(&sB[s][r][c]), B + (size_t)(n0 + r) * K + k0 + c);
    }
    asm volatile("cp.async.commit_group;\n");
  };
  int nk = K / BK;
  load(0, 0);
  if (nk > 1) load(1, BK); else asm volatile("cp.async.commit_group;\n");
  for (int k = 0; k < nk; k++) {
    asm volatile("cp.async.wait_group 1;\n");
    __syncthreads();
    if (k + 2 < nk) load((k + 2) % ST, (k + 2) * BK); else asm volatile("cp.async.commit_group;\n");
    int s = k % ST;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      uint32_t a[2][4], b[8][2];
#pragma unroll
      for (int i = 0; i < 2; i++) ldm4(a[i], s32(&sA[s][wm * 32 + i * 16 + l % 16][kk + l / 16 * 8]));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t r[4];
        ldm4(r, s32(&sB[s][wn * 64 + j * 16 + l % 8 + l / 16 * 8][kk + l / 8 % 2 * 8]));
        b[2 * j][0] = r[0]; b[2 * j][1] = r[1]; b[2 * j + 1][0] = r[2]; b[2 * j + 1][1] = r[3];
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) mma(acc[i][j], a[i], b[j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int r = m0 + wm * 32 + i * 16 + l / 4, c = n0 + wn * 64 + j * 8 + l % 4 * 2;
      *(float2*)&C[(size_t)r * N + c] = make_float2(acc[i][j][0], acc[i][j][1]);
      *(float2*)&C[(size_t)(r + 8) * N + c] = make_float2(acc[i][j][2], acc[i][j][3]);
    }
}
// f32, one element a thread, 16 x 16 tiles in shared memory.
extern "C" __global__ void sgemm(const float* A, const float* B, float* C, int n) {
  __shared__ float sa[16][17], sb[16][17];
  int tx = threadIdx.x, ty = threadIdx.y, r = blockIdx.y * 16 + ty, c = blockIdx.x * 16 + tx;
  float s = 0;
  for (int k = 0; k < n; k += 16) {
    sa[ty][tx] = A[r * n + k + tx]; sb[ty][tx] = B[(k + ty) * n + c];
    __syncthreads();
    for (int j = 0; j < 16; j++) s += sa[ty][j] * sb[j][tx];
    __syncthreads();
  }
  C[r * n + c] = s;
}
// Nothing but arithmetic.
extern "C" __global__ void simt(const float* a, float* o, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float x = a[i], y = 1.f;
  for (int k = 0; k < n; k++) {
    x = x * 0.999f + y; y = fmaxf(y, x * 0.5f);
    if (k & 1) y -= 0.25f;
    x += (float)((k * 7 + i) & 15);
  }
  o[i] = x + y;
}
// Matrix products through the wmma interface, in several shapes and types.
#include <mma.h>
#include <cuda_bf16.h>
using namespace nvcuda;
template <class T, class Acc, int M, int N, int K, class LA, class LB> DEV void one(const T* a, int lda, const T* b, int ldb, Acc* c) {
  wmma::fragment<wmma::matrix_a, M, N, K, T, LA> fa; wmma::fragment<wmma::matrix_b, M, N, K, T, LB> fb; wmma::fragment<wmma::accumulator, M, N, K, Acc> fc;
  wmma::load_matrix_sync(fc, c, N, wmma::mem_row_major); wmma::load_matrix_sync(fa, a, lda); wmma::load_matrix_sync(fb, b, ldb);
  wmma::mma_sync(fc, fa, fb, fc); wmma::store_matrix_sync(c, fc, N, wmma::mem_row_major);
}
extern "C" __global__ void k_wmma(const half* ha, const half* hb, const __nv_bfloat16* ba, const __nv_bfloat16* bb, const signed char* ia, const signed char* ib, float* c, int* ci, half* ch) {
  one<half, float, 16, 16, 16, wmma::row_major, wmma::col_major>(ha, 16, hb, 16, c);
  one<half, float, 16, 16, 16, wmma::col_major, wmma::row_major>(ha, 16, hb, 16, c + 256);
  one<half, float, 32, 8, 16, wmma::row_major, wmma::col_major>(ha, 16, hb, 16, c + 512);
  one<half, float, 8, 32, 16, wmma::row_major, wmma::col_major>(ha, 16, hb, 16, c + 768);
  one<__nv_bfloat16, float, 16, 16, 16, wmma::row_major, wmma::col_major>(ba, 16, bb, 16, c + 1024);
  one<signed char, int, 16, 16, 16, wmma::row_major, wmma::col_major>(ia, 16, ib, 16, ci);
  one<half, half, 16, 16, 16, wmma::row_major, wmma::row_major>(ha, 16, hb, 16, ch);
}
