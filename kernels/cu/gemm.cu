// Matrix products on the FMA units, f32 sums of f32, bf16 or f16 operands in any mixture.
//
//   acc = (s · a2 · op(b2)) ⊙ mask;  acc += op(a[i]) · op(b[i]);  c[i] (+)= alpha · acc + bias
//
// NT with a tail is the low-rank linear's y = x Wᵀ + s h Bᵀ + bias; NN with a tail is dx = gy W + (u A) ⊙ mask. The tail
// goes first, so that its mask needs no second accumulator. Every sum runs over r, then k, in ascending order: the bits
// of a row depend neither on m nor on the tile.
//
// Tiles 128 x 128 x 16 (64 x 64 x 16 where that would be few tiles): 8 warps of 64 x 32 in two by two parts, a thread
// has 8 x 8 sums, so that 64 FMA follow 4 shared loads of 16 bytes. Global memory → registers → shared memory, two
// stages: while a tile is multiplied, the next is on its way in registers, where the conversion to f32 happens.
//   on paper: 2mnk FLOP; (m·n·k/128)·2 elements read, m·n written, all in whole 32-byte sectors where rows are aligned
//   ptxsim counts: exactly these sectors, no bank conflict anywhere (tests/gemm.rs asserts both)
//   gemm_*_128: 256 threads, 128 registers, 32 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   gemm_*_64: 256 threads, 71 registers, 16 KiB of shared memory: 3 blocks on 9.0, 3 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"

constexpr int BK = 16;
constexpr int THREADS = 256;
// One operand's [T, BK] tile: global memory → registers → shared memory [BK][T].
// Along: k runs along memory ([rows, k]); otherwise the rows do ([k, rows]).
// Column c of row k of the tile lies at c ^ ((k/4) << 3): the four k of a chunk are stored by lanes that differ in
// k/4, and so never meet in a bank; reads permute whole float4s.
template <int T, bool ALONG> struct Loader {
  static constexpr int CHUNKS = T * BK / 4 / THREADS;
  float v[CHUNKS][4];

  DEVICE void load(const void* p, u32 type, u32 rows, u32 k, u32 row0, u32 k0, bool wide) {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      u32 id = threadIdx.x + i * THREADS;
      u32 row = row0 + (ALONG ? id / 4 : id % (T / 4) * 4), kk = k0 + (ALONG ? id % 4 * 4 : id / (T / 4));
      u64 index = ALONG ? (u64)row * k + kk : (u64)kk * rows + row;
      int left = ALONG ? (row < rows ? (int)min(k - min(k, kk), 4u) : 0) : (kk < k ? (int)min(rows - min(rows, row), 4u) : 0);
      load4(v[i], p, index, left, type, wide);
    }
  }
  DEVICE void store(float* s) const {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      u32 id = threadIdx.x + i * THREADS;
      if (ALONG) {
        u32 row = id / 4, q = id % 4;
#pragma unroll
        for (int j = 0; j < 4; j++) s[(q * 4 + j) * T + (row ^ q << 3)] = v[i][j];
      } else {
        u32 row = id % (T / 4) * 4, kk = id / (T / 4);
        store_shared4(&s[kk * T + (row ^ (kk / 4) << 3)], v[i][0], v[i][1], v[i][2], v[i][3]);
      }
    }
  }
};

// acc = s · acc ⊙ mask. Through shared memory, because a loop over registers would have to be unrolled, Philox and all;
// a thread touches its own words only.
template <int T>
DEVICE void scale_tail(float (&acc)[T / 16][T / 16], const Gemm& g, float* stage, u32 row, u32 col) {
  constexpr int N = T / 16;
  if (!g.scalars) {
#pragma unroll
    for (int i = 0; i < N * N; i++) acc[i / N][i % N] *= g.s;
    return;
  }
  u32 step = (u32)g.scalars[0];
#pragma unroll
  for (int i = 0; i < N / 4; i++) {
    float* own = stage + threadIdx.x * 4;
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float* v = &acc[i * 4 + j % 4][j / 4 * 4];
      store_shared4(&own[j * THREADS * 4], v[0], v[1], v[2], v[3]);
    }
#pragma unroll 1
    for (int j = 0; j < N; j++) {
      float* at = &own[j * THREADS * 4];
      float4 x = load_shared4(at);
      float v[4] = {x.x * g.s, x.y * g.s, x.z * g.s, x.w * g.s};
      mask4(v, (u64)(row + i * 64 + j % 4) * g.n + col + j / 4 * 64, g.drop, step);
      store_shared4(at, v[0], v[1], v[2], v[3]);
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
      float4 x = load_shared4(&own[j * THREADS * 4]);
      float* v = &acc[i * 4 + j % 4][j / 4 * 4];
      v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    }
  }
  __syncthreads();
}

template <int T, bool TA, bool TB> DEVICE void gemm(Gemm g) {
  constexpr int G = T / 64;  // groups of four rows and columns of a thread, 64 apart
  __shared__ __align__(16) float stage[2][2][BK * T];
  u32 tile_m, tile_n;
  place((g.m + T - 1) / T, (g.n + T - 1) / T, blockIdx.x, tile_m, tile_n);
  u32 row0 = tile_m * T, col0 = tile_n * T, batch = blockIdx.z;
  g.a = element(g.a, (u64)batch * g.m * g.k, g.ta);
  g.b = element(g.b, (u64)batch * g.k * g.n, g.tb);
  // 2 x 4 warps of 8 x 4 lanes.
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u32 tm = warp % 2 * 32 + lane / 4 * 4, tn = warp / 2 * 16 + lane % 4 * 4;
  float acc[G * 4][G * 4];
#pragma unroll
  for (int i = 0; i < G * 4; i++)
#pragma unroll
    for (int j = 0; j < G * 4; j++) acc[i][j] = 0.f;

#pragma unroll 1
  for (int segment = g.k2 ? 0 : 1; segment < 2; segment++) {
    const void *a = segment ? g.a : g.a2, *b = segment ? g.b : g.b2;
    u32 k = segment ? g.k : g.k2, ta = segment ? g.ta : g.ta2, tb = segment ? g.tb : g.tb2;
    u32 steps = (k + BK - 1) / BK;
    bool wide_a = rows_of_four(a, TA ? g.m : k, ta), wide_b = rows_of_four(b, TB ? k : g.n, tb);
    Loader<T, !TA> la;
    Loader<T, TB> lb;
#pragma unroll 1
    for (u32 step = 0; step <= steps; step++) {
      if (step < steps) {
        la.load(a, ta, g.m, k, row0, step * BK, wide_a);
        lb.load(b, tb, g.n, k, col0, step * BK, wide_b);
      }
      if (step > 0) {
        const float *ra = stage[(step - 1) & 1][0], *rb = stage[(step - 1) & 1][1];
#pragma unroll
        for (int kk = 0; kk < BK; kk++) {
          float fa[G][4], fb[G][4];
#pragma unroll
          for (int i = 0; i < G; i++) {
            float4 x = load_shared4(&ra[kk * T + (tm ^ (kk / 4) << 3) + i * 64]);
            float4 y = load_shared4(&rb[kk * T + (tn ^ (kk / 4) << 3) + i * 64]);
            fa[i][0] = x.x, fa[i][1] = x.y, fa[i][2] = x.z, fa[i][3] = x.w;
            fb[i][0] = y.x, fb[i][1] = y.y, fb[i][2] = y.z, fb[i][3] = y.w;
          }
#pragma unroll
          for (int i = 0; i < G * 4; i++)
#pragma unroll
            for (int j = 0; j < G * 4; j++) acc[i][j] = fmaf(fa[i / 4][i % 4], fb[j / 4][j % 4], acc[i][j]);
        }
      }
      if (step < steps) {
        la.store(stage[step & 1][0]);
        lb.store(stage[step & 1][1]);
      }
      __syncthreads();
    }
    if (segment == 0) scale_tail<T>(acc, g, (float*)stage, row0 + tm, col0 + tn);
  }

  // Out through shared memory, 64 rows at a time, so that a warp writes whole rows. Bit 4 of the column is turned in
  // every other four rows: the lanes of a warp that write rows tm and tm + 4 meet in no bank.
  char* c = (char*)g.c + (u64)batch * g.m * g.n * type_size(g.tc);
  bool wide = rows_of_four(c, g.n, g.tc);
  float* out = (float*)stage;
#pragma unroll
  for (int i = 0; i < G; i++) {
#pragma unroll
    for (int j = 0; j < G * 4; j++) {
      const float* v = &acc[i * 4 + j % 4][j / 4 * 4];
      store_shared4(&out[(tm + j % 4) * T + (tn ^ (tm & 4) << 2) + j / 4 * 64], v[0], v[1], v[2], v[3]);
    }
    __syncthreads();
#pragma unroll 1
    for (u32 id = threadIdx.x; id < 64 * T / 4; id += THREADS) {
      float4 sum = load_shared4(&out[id * 4 ^ (id / (T / 4) & 4) << 2]);
      write4(g, c, row0 + i * 64 + id / (T / 4), col0 + id % (T / 4) * 4, sum, wide);
    }
    __syncthreads();
  }
}

#define ENTRY(layout, TA, TB, T, OCCUPANCY)                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, OCCUPANCY)                       \
      gemm_##layout##_##T(const __grid_constant__ Gemm g) {                              \
    gemm<T, TA, TB>(g);                                                                  \
  }
ENTRY(nn, false, false, 128, 2)
ENTRY(nt, false, true, 128, 2)
ENTRY(tn, true, false, 128, 2)
ENTRY(nn, false, false, 64, 3)
ENTRY(nt, false, true, 64, 3)
ENTRY(tn, true, false, 64, 3)
