// A few rows, as in generating text: y[m,n] (+)= alpha · (s h Bᵀ + x Wᵀ) + bias for m ≤ 16, bound by the bytes of W.
//
// Each byte of W [n,k] is read once, 16 bytes a lane, 512 contiguous bytes a warp. A block has 16 rows of W: four warps
// with four rows each for the even steps of 256 k, four for the odd steps. A warp loads the rows of its next step before
// it multiplies those of this one, so 2 KiB a warp (4 for f32) are on their way. x goes through shared memory, 32 KiB of
// f32 at a time, in the order in which lanes want it; a lane multiplies 4 x 8 weights with 8 numbers of each row of x.
// The sum of an element of y: each lane its k in ascending order, lanes by a tree, even plus odd steps. It does not
// depend on m.
//   floor: nk weights, mk·n/16 of x (from L2), mn of y; 2mnk FLOP: at m = 16 as much arithmetic as memory traffic
//   ptxsim counts exactly these sectors, and no bank conflict in the loop (tests/decode.rs asserts both)
//   decode_1_16bit: 256 threads, 74 registers, 32.125 KiB of shared memory: 3 blocks on 9.0, 3 on 8.6
//   decode_1_f32, decode_4_*, decode_8_16bit: 256 threads, 128 registers, 33 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   decode_8_f32, decode_16_*: 256 threads, 240 registers, 34 KiB of shared memory: 1 block on 9.0, 1 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"

struct Decode {
  const void *x, *w, *bias, *h, *b;  // [m,k] [n,k] [n] [m,r] [n,r]; bias, and h with b, may be null
  void* y;
  u32 m, n, k, r;
  float alpha, s;
  u32 tx, tw, tbias, th, tb, ty;  // element types; tw is f32 in the kernels _f32, else one of the others
  u32 add;
};

constexpr int THREADS = 256, STEP = 256, ROWS = 16;

// One step of four rows of W, as it lies in memory.
template <bool F32> struct Weights {
  static constexpr int QUADS = F32 ? 2 : 1;
  u32 raw[4][QUADS * 4];

  // Lanes take 8 neighbours of 16 bits, or 4 neighbours of f32 twice, 128 apart.
  DEVICE void load(const Decode& p, u32 row0, u32 k0, bool wide) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        u32 k = k0 + (F32 ? q * 128 + lane * 4 : lane * 8), row = row0 + i;
        u32(&to)[QUADS * 4] = raw[i];
        bool inside = row < p.n && k < p.k;
        const char* at = (const char*)p.w + ((u64)row * p.k + k) * (F32 ? 4 : 2);
        if (wide) {
          uint4 v = make_uint4(0, 0, 0, 0);
          if (inside) v = *(const uint4*)at;
          to[q * 4] = v.x, to[q * 4 + 1] = v.y, to[q * 4 + 2] = v.z, to[q * 4 + 3] = v.w;
        } else {
          // Rows that are not aligned: 32 bits a turn.
#pragma unroll 1
          for (int j = 0; j < 4; j++) {
            u32 word = 0;
            if (F32) {
              if (inside && k + j < p.k) word = ((const u32*)at)[j];
            } else {
              if (inside && k + 2 * j < p.k) word = ((const u16*)at)[2 * j];
              if (inside && k + 2 * j + 1 < p.k) word |= (u32)((const u16*)at)[2 * j + 1] << 16;
            }
            to[q * 4] = to[q * 4 + 1], to[q * 4 + 1] = to[q * 4 + 2], to[q * 4 + 2] = to[q * 4 + 3];
            to[q * 4 + 3] = word;
          }
        }
      }
  }
  DEVICE void values(float (&v)[4][8], u32 type) const {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (F32)
          v[i][j] = __uint_as_float(raw[i][j % (QUADS * 4)]);
        else
          v[i][j] = from_16(j % 2 ? raw[i][j / 2] >> 16 : raw[i][j / 2] & 0xffff, type);
      }
  }
};

template <int M, bool F32> DEVICE void decode(const Decode& p) {
  constexpr u32 CHUNK = 32 / M;  // steps of x in shared memory: even
  __shared__ __align__(16) float xs[CHUNK * M * STEP];
  __shared__ float sums[2][M][ROWS];
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, odd = warp / 4, row0 = blockIdx.x * ROWS + warp % 4 * 4;
  u32 steps = (p.k + STEP - 1) / STEP;
  bool wide_x = rows_of_four(p.x, p.k, p.tx);
  bool wide = ((u64)p.w & 15) == 0 && p.k % (F32 ? 4 : 8) == 0;
  Weights<F32> next;
  if (odd < steps) next.load(p, row0, odd * STEP, wide);

  // The low-rank part first: acc = s h Bᵀ. Lanes share the ranks.
  float acc[M][4];
#pragma unroll
  for (int i = 0; i < M * 4; i++) acc[i / 4][i % 4] = 0.f;
#pragma unroll 1
  for (u32 j0 = 0; j0 < p.r; j0 += 32) {
    __syncthreads();
    for (u32 id = threadIdx.x; id < M * 32; id += THREADS) {
      u32 row = id / 32, j = j0 + lane;
      xs[id] = row < p.m && j < p.r ? load1(p.h, (u64)row * p.r + j, p.th) : 0.f;
    }
    __syncthreads();
    if (odd) continue;
    float b[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      b[i] = row0 + i < p.n && j0 + lane < p.r ? p.s * load1(p.b, (u64)(row0 + i) * p.r + j0 + lane, p.tb) : 0.f;
#pragma unroll
    for (int a = 0; a < M; a++) {
      float h = xs[a * 32 + lane];
#pragma unroll
      for (int i = 0; i < 4; i++) acc[a][i] = fmaf(h, b[i], acc[a][i]);
    }
  }

#pragma unroll 1
  for (u32 first = 0; first < steps; first += CHUNK) {
    __syncthreads();
    u32 end = min(steps, first + CHUNK), quads = (end - first) * (STEP / 4);
#pragma unroll 1
    for (u32 id = threadIdx.x; id < quads * M; id += THREADS) {
      u32 a = id / quads, q = id % quads, k = first * STEP + q * 4;
      float v[4];
      load4(v, p.x, (u64)a * p.k + k, a < p.m ? (int)min(p.k - min(p.k, k), 4u) : 0, p.tx, wide_x);
      // 16-bit weights: a lane's 8 neighbours lie as two quads 128 apart; the second is turned by 16 banks.
      u32 at = F32 ? q % 64 * 4 : q % 2 * 128 + (q % 64 / 2 * 4 ^ q % 2 * 16);
      store_shared4(&xs[((q / 64) * M + a) * STEP + at], v[0], v[1], v[2], v[3]);
    }
    __syncthreads();
#pragma unroll 1
    for (u32 step = first + odd; step < end; step += 2) {
      float w[4][8];
      next.values(w, p.tw);
      if (step + 2 < steps) next.load(p, row0, (step + 2) * STEP, wide);
      const float* x = &xs[(step - first) * M * STEP];
#pragma unroll
      for (int a = 0; a < M; a++) {
        float4 lo = load_shared4(&x[a * STEP + lane * 4]);
        float4 hi = load_shared4(&x[a * STEP + 128 + (F32 ? lane * 4 : lane * 4 ^ 16)]);
        const float e[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
          for (int i = 0; i < 4; i++) acc[a][i] = fmaf(e[j], w[i][j], acc[a][i]);
      }
    }
  }

#pragma unroll
  for (int a = 0; a < M; a++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float v = warp_sum(acc[a][i]);
      if (lane == 0) sums[odd][a][warp % 4 * 4 + i] = v;
    }
  __syncthreads();
  u32 a = threadIdx.x / ROWS, col = blockIdx.x * ROWS + threadIdx.x % ROWS;
  if (a >= p.m || a >= M || col >= p.n) return;
  float v = sums[0][a][threadIdx.x % ROWS] + sums[1][a][threadIdx.x % ROWS];
  v = fmaf(p.alpha, v, p.bias ? load1(p.bias, col, p.tbias) : 0.f);
  u64 at = (u64)a * p.n + col;
  if (p.ty == TYPE_F32) {
    float* y = (float*)p.y + at;
    *y = p.add ? *y + v : v;
  } else {
    u16* y = (u16*)p.y + at;
    *y = to_16(p.add ? from_16(*y, p.ty) + v : v, p.ty);
  }
}

#define DECODE(M, name, F32)                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS, M == 16 || F32 && M == 8 ? 1 : 2) decode_##M##_##name(const __grid_constant__ Decode p) { \
    decode<M, F32>(p);                                                                                                 \
  }
#define BOTH(M) DECODE(M, f32, true) DECODE(M, 16bit, false)
BOTH(1)
BOTH(4)
BOTH(8)
BOTH(16)
