#include "common.cuh"
#include "storage.cuh"

// c[z] (+)= alpha · op(a[z]) · op(b[z]), c [m,n] f32, in f32 on the FMA units: Precision::Full.
//
// 64 × 64 tile of c per block of 256 threads, 4 × 4 of it per thread; 16 of k at a time through shared memory, a stored
// transposed so that a thread's four rows are one load. Any m, n, k, any storage: what overhangs is loaded as zero.
// A sum runs over k from 0 up in one thread: its bits depend on k alone.
static const int TILE = 64, DEPTH = 16, PAD = 4;

struct Operand {
  const void *x;
  u32 type;
  // Distance in elements between neighbours in m (or n), in k, and between matrices.
  u64 across, along, matrix;
};

// The tile's element e of 1024, so that neighbouring threads read neighbouring memory.
DEVICE void load_tile(float tile[DEPTH][TILE + PAD], const Operand &o, u64 z, u64 first, u64 count, u64 k0, u64 k) {
  bool along = o.along == 1;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 e = threadIdx.x + i * 256;
    u32 l = along ? e % DEPTH : e / TILE, r = along ? e / DEPTH : e % TILE;
    float v = 0.0f;
    if (first + r < count && k0 + l < k) v = load(o.x, o.type, z * o.matrix + (first + r) * o.across + (k0 + l) * o.along);
    tile[l][r] = v;
  }
}

KERNEL(256)
gemm_simt(float *c, const Operand a, const Operand b, u64 m, u64 n, u64 k, u64 row_tiles, u64 col_tiles, float alpha, u32 add) {
  __shared__ __align__(16) float as[DEPTH][TILE + PAD], bs[DEPTH][TILE + PAD];
  u64 z = blockIdx.x / (row_tiles * col_tiles), t = blockIdx.x % (row_tiles * col_tiles);
  u64 row0 = t / col_tiles * TILE, col0 = t % col_tiles * TILE;
  u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  float acc[4][4] = {};
  for (u64 k0 = 0; k0 < k; k0 += DEPTH) {
    load_tile(as, a, z, row0, m, k0, k);
    load_tile(bs, b, z, col0, n, k0, k);
    __syncthreads();
#pragma unroll
    for (int l = 0; l < DEPTH; l++) {
      float4 p = *(const float4 *)&as[l][ty * 4], q = *(const float4 *)&bs[l][tx * 4];
      float u[4] = {p.x, p.y, p.z, p.w}, v[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = fmaf(u[i], v[j], acc[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      u64 row = row0 + ty * 4 + i, col = col0 + tx * 4 + j;
      if (row < m && col < n) put(c + (z * m + row) * n + col, alpha * acc[i][j], add);
    }
  }
}
