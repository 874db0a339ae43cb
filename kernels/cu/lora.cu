// The rank-r sums of the low-rank linear and its gradients, on the FMA units:
//
//   U: u = x̂ · op(b), sums over columns:    h = x̂ Aᵀ (x̂ = x ⊙ mask),   u = gy B
//   V: v = x̂ᵀ · h, sums over rows:          db = gyᵀ h,                 da = (x̂ᵀ u)ᵀ
//
// `uv` does both in one read of gy. The first pass leaves partial sums, `lora_sum` adds them in a fixed order.
//
// A block takes a slice of 8192/R columns (R: the rank rounded up to 16, 32, 64 or 128) through its rows, 16 rows at a
// time in shared memory; the next 16 are on their way in registers. The sums of V stay in registers, 8 columns x 4 ranks
// a thread; those of U go out after every 16 rows. So partial sums are only R²/8192 of gy for u (3 % at rank 16) and as
// little again for v. The slices depend on c and r only: a row of h or u has the same bits in any batch.
//   on paper: 2mcr FLOP each; mc elements read once, (slices·m + blocks·c)·r floats out and in again; b once a block
//   ptxsim counts exactly these sectors and no bank conflict for u and v (tests/lora.rs asserts both); where b is stored
//   along ([r,c]), its way to shared memory meets four lanes in a bank, once a block
//   uv_16 has one block with 32 KiB of gy on their way, about what latency times bandwidth asks for
//   lora_u_16: 256 threads, 94 registers, 72.25 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   lora_u_32, lora_u_64: 256 threads, 72 registers, 56.25 KiB of shared memory: 3 blocks on 9.0, 1 on 8.6
//   lora_u_128: 256 threads, 62 registers, 44.25 KiB of shared memory: 4 blocks on 9.0, 2 on 8.6
//   lora_v_*: 256 threads, 128 registers, 33.25 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   lora_uv_16: 256 threads, 132 registers, 73.25 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_uv_32, lora_uv_64, lora_uv_128: 256 threads, 114 registers, 58.25 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   lora_sum: 256 threads, 26 registers: 8 blocks on 9.0, 6 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"

// x is [m,c]: x itself, or gy. A block owns `rows` rows and a slice of SLICE columns.
struct Lora {
  const void* x;
  const void* b;         // U: [c,r], or [r,c] with b_along
  const void* h;         // V: [m,r]
  float* u;              // U: partial sums [slices,m,r]
  float* v;              // V: partial sums [row blocks,c,r], or [row blocks,r,c] with v_across
  const float* scalars;  // for the step; null: no dropout; not looked at by uv
  u32 m, c, r, rows;
  u32 tx, tb, th;  // element types
  u32 b_along, v_across;
  Dropout drop;  // of x; element index = row · c + column
};

constexpr int THREADS = 256;
constexpr int ROWS = 16;  // rows of x that are in shared memory at a time

template <int R> struct Shape {
  static constexpr int SLICE = 8192 / R;            // columns of a block
  static constexpr int PITCH = SLICE + 4;           // of a row of x in shared memory: rows two apart differ by 8 banks
  static constexpr int STEP = THREADS / (SLICE / 4);  // rows between the chunks of a thread, which share their columns
  static constexpr int X_CHUNKS = ROWS / STEP;
  static constexpr int H_CHUNKS = (ROWS * R / 4 + THREADS - 1) / THREADS;
  static constexpr int GROUPS = SLICE / 64;         // U: groups of threads with 64 columns each
  static constexpr int X = ROWS * PITCH, B = SLICE * R, H = ROWS * R, PART = GROUPS * ROWS * R;
};

template <int R, bool U, bool V> DEVICE void skinny(const Lora& p) {
  using S = Shape<R>;
  extern __shared__ __align__(16) float memory[];
  float *xs = memory, *bs = xs + S::X, *part = bs + (U ? S::B : 0), *hs = part + (U ? S::PART : 0);
  u32 t = threadIdx.x, slice = blockIdx.x, c0 = slice * S::SLICE;
  u32 first = blockIdx.y * p.rows, end = min(p.m, first + p.rows);
  bool wide_x = rows_of_four(p.x, p.c, p.tx), wide_h = V && rows_of_four(p.h, p.r, p.th);

  if (U) {
    bool wide = rows_of_four(p.b, p.b_along ? p.c : p.r, p.tb);
#pragma unroll 1
    for (u32 id = t; id < S::B / 4; id += THREADS) {
      float v[4];
      if (p.b_along) {
        // Eight rows of 64 bytes at a time: whole sectors.
        u32 q = id % 4 + id / (R * 4) * 4, i = id / 4 % R, c = c0 + q * 4;
        load4(v, p.b, (u64)i * p.c + c, i < p.r ? (int)min(p.c - min(p.c, c), 4u) : 0, p.tb, wide);
#pragma unroll
        for (int j = 0; j < 4; j++) bs[(q * 4 + j) * R + i] = v[j];
      } else {
        u32 c = id / (R / 4), i = id % (R / 4) * 4;
        load4(v, p.b, (u64)(c0 + c) * p.r + i, c0 + c < p.c ? (int)min(p.r - min(p.r, i), 4u) : 0, p.tb, wide);
        store_shared4(&bs[c * R + i], v[0], v[1], v[2], v[3]);
      }
    }
  }

  u32 xrow = t / (S::SLICE / 4), xc = t % (S::SLICE / 4) * 4;
  int left = (int)min(p.c - min(p.c, c0 + xc), 4u);
  float x[S::X_CHUNKS][4], h[S::H_CHUNKS][4];
  auto load_h = [&](u32 row0) {
#pragma unroll
    for (int i = 0; i < S::H_CHUNKS; i++) {
      u32 id = t + i * THREADS, row = row0 + id / (R / 4), j = id % (R / 4) * 4;
      if (id < S::H / 4) load4(h[i], p.h, (u64)row * p.r + j, row < end ? (int)min(p.r - min(p.r, j), 4u) : 0, p.th, wide_h);
    }
  };
  auto load = [&](u32 row0) {
    const char* at = element(p.x, (u64)(row0 + xrow) * p.c + c0 + xc, p.tx);
    u64 step = (u64)p.c * S::STEP * type_size(p.tx);
#pragma unroll
    for (int i = 0; i < S::X_CHUNKS; i++, at += step)
      load4(x[i], at, 0, row0 + xrow + i * S::STEP < end ? left : 0, p.tx, wide_x);
    if (V) load_h(row0);
  };
  auto store = [&](u32 row0) {
#pragma unroll
    for (int i = 0; i < S::X_CHUNKS; i++) {
      store_shared4(&xs[(xrow + i * S::STEP) * S::PITCH + xc], x[i][0], x[i][1], x[i][2], x[i][3]);
    }
    if (V) {
#pragma unroll
      for (int i = 0; i < S::H_CHUNKS; i++) {
        u32 id = t + i * THREADS;
        if (id < S::H / 4) store_shared4(&hs[id * 4], h[i][0], h[i][1], h[i][2], h[i][3]);
      }
    }
    if (!(U && V) && p.scalars) {  // gy has no mask
      // In shared memory, each thread the words that it has just written: a loop over registers would be unrolled.
      u32 step = (u32)p.scalars[0];
#pragma unroll 1
      for (u32 row = xrow; row < ROWS; row += S::STEP) {
        float* at = &xs[row * S::PITCH + xc];
        float4 q = load_shared4(at);
        float v[4] = {q.x, q.y, q.z, q.w};
        mask4(v, (u64)(row0 + row) * p.c + c0 + xc, p.drop, step);
        store_shared4(at, v[0], v[1], v[2], v[3]);
      }
    }
  };

  // V: 8 columns in two groups of four, 4 ranks. U: 2 rows, 4 ranks, 64 columns of the group.
  u32 vj = t % (R / 4) * 4, vc = t / (R / 4) * 4;
  u32 uj = vj, urow = t / (R / 4) % 8 * 2, group = t / (2 * R);
  float acc[8][4];
#pragma unroll
  for (int i = 0; i < 32; i++) acc[i / 4][i % 4] = 0.f;

  if (first < end) load(first);
#pragma unroll 1
  for (u32 row0 = first; row0 < end; row0 += ROWS) {
    store(row0);
    __syncthreads();
    if (row0 + ROWS < end) load(row0 + ROWS);
    if (U) {
      float s[2][4] = {};
#pragma unroll 1
      for (int c = group * 64; c < group * 64 + 64; c += 4) {
        float e[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float4 q = load_shared4(&xs[(urow + i) * S::PITCH + c]);
          e[i][0] = q.x, e[i][1] = q.y, e[i][2] = q.z, e[i][3] = q.w;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
          float4 w = load_shared4(&bs[(c + k) * R + uj]);
#pragma unroll
          for (int i = 0; i < 2; i++) {
            s[i][0] = fmaf(e[i][k], w.x, s[i][0]);
            s[i][1] = fmaf(e[i][k], w.y, s[i][1]);
            s[i][2] = fmaf(e[i][k], w.z, s[i][2]);
            s[i][3] = fmaf(e[i][k], w.w, s[i][3]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) store_shared4(&part[(group * ROWS + i * 8 + urow / 2) * R + uj], s[i][0], s[i][1], s[i][2], s[i][3]);
    }
    if (V) {
#pragma unroll 2
      for (int row = 0; row < ROWS; row++) {
        float4 a[2], w = load_shared4(&hs[row * R + vj]);
#pragma unroll
        for (int i = 0; i < 2; i++) a[i] = load_shared4(&xs[row * S::PITCH + vc + i * (S::SLICE / 2)]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float4& q = a[i / 4];
          float e = i % 4 == 0 ? q.x : i % 4 == 1 ? q.y : i % 4 == 2 ? q.z : q.w;
          acc[i][0] = fmaf(e, w.x, acc[i][0]);
          acc[i][1] = fmaf(e, w.y, acc[i][1]);
          acc[i][2] = fmaf(e, w.z, acc[i][2]);
          acc[i][3] = fmaf(e, w.w, acc[i][3]);
        }
      }
    }
    __syncthreads();
    if (U) {
      bool wide = (p.r & 3) == 0;
#pragma unroll 1
      for (u32 id = t; id < ROWS * R / 4; id += THREADS) {
        // Even rows come first, then odd ones: row pairs 32 words apart would meet in a bank.
        u32 row = row0 + id / (R / 4) % 8 * 2 + id / (R / 4) / 8, j = id % (R / 4) * 4;
        float v[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 2
        for (int g = 0; g < S::GROUPS; g++) {
          float4 q = load_shared4(&part[g * ROWS * R + id * 4]);
          v[0] += q.x, v[1] += q.y, v[2] += q.z, v[3] += q.w;
        }
        if (row < end) store4(p.u, ((u64)slice * p.m + row) * p.r + j, v, (int)(p.r - min(p.r, j)), TYPE_F32, wide, false);
      }
    }
  }

  if (V) {
    // Out through shared memory, so that a warp writes whole rows.
    float* out = p.v + (u64)blockIdx.y * p.c * p.r;
    // Columns are turned by bits of the row that differ between the lanes of a store, so that these meet in no bank.
    u32 pitch = p.v_across ? S::SLICE : R;
    auto word = [&](u32 row, u32 at) {
      u32 turn = !p.v_across ? row / 4 % 2 * 16 : R == 16 ? row / 4 % 4 * 8 : row / 4 % 8 * 4;
      return row * pitch + at ^ turn;
    };
#pragma unroll
    for (int i = 0; i < 8; i++) {
      u32 c = vc + i / 4 * (S::SLICE / 2), k = i % 4;
      if (p.v_across)
        store_shared4(&memory[word(vj + k, c)], acc[i / 4 * 4][k], acc[i / 4 * 4 + 1][k], acc[i / 4 * 4 + 2][k], acc[i / 4 * 4 + 3][k]);
      else
        store_shared4(&memory[word(c + k, vj)], acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    }
    __syncthreads();
    u32 per = (p.v_across ? S::SLICE : R) / 4, width = p.v_across ? p.c : p.r;
    bool wide = (width & 3) == 0 && ((u64)out & 15) == 0;
#pragma unroll 1
    for (u32 id = t; id < S::SLICE * R / 4; id += THREADS) {
      u32 row = id / per, at = id % per * 4, col = at + (p.v_across ? c0 : 0);
      float4 q = load_shared4(&memory[word(row, at)]);
      float v[4] = {q.x, q.y, q.z, q.w};
      bool inside = p.v_across ? row < p.r : c0 + row < p.c;
      u64 first_row = p.v_across ? row : c0 + row;
      if (inside && col < width) store4(out, first_row * width + col, v, (int)(width - col), TYPE_F32, wide, false);
    }
  }
}

#define SKINNY(name, R, U, V)                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS, R == 16 && U && V ? 1 : 2) lora_##name##_##R(const __grid_constant__ Lora p) {     \
    skinny<R, U, V>(p);                                                                                            \
  }
#define RANKS(name, U, V) SKINNY(name, 16, U, V) SKINNY(name, 32, U, V) SKINNY(name, 64, U, V) SKINNY(name, 128, U, V)
RANKS(u, true, false)
RANKS(v, false, true)
RANKS(uv, true, true)

// out (+)= s · Σ part[i], in ascending i: the second pass over the sums of the first, for up to three results. `copy`, if
// there is one, gets copy_s · out in bf16; where out is not wanted the copy is of s · Σ part[i].
struct Sum {
  const float* part;  // [parts, len]
  void* out;
  u16* copy;
  u64 len;
  u32 parts;
  float s, copy_s;
  u32 type, add;
  u32 blocks;
};
struct Sums {
  Sum job[3];
};

extern "C" __global__ void __launch_bounds__(THREADS) lora_sum(const __grid_constant__ Sums p) {
  u32 block = blockIdx.x, which = 0;
  if (block >= p.job[0].blocks) block -= p.job[0].blocks, which = 1;
  if (which == 1 && block >= p.job[1].blocks) block -= p.job[1].blocks, which = 2;
  const Sum& job = p.job[which];
  u64 at = ((u64)block * THREADS + threadIdx.x) * 4;
  if (at >= job.len) return;
  int valid = (int)min(job.len - at, 4ull);
  bool wide = rows_of_four(job.part, job.len, TYPE_F32);
  float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
  for (u32 i = 0; i < job.parts; i++) {
    float v[4];
    load4(v, job.part, i * job.len + at, valid, TYPE_F32, wide);
#pragma unroll
    for (int j = 0; j < 4; j++) sum[j] += v[j];
  }
#pragma unroll
  for (int j = 0; j < 4; j++) sum[j] *= job.s;
  if (job.out) store4(job.out, at, sum, valid, job.type, rows_of_four(job.out, 0, job.type), job.add);
  if (!job.copy) return;
#pragma unroll
  for (int j = 0; j < 4; j++) sum[j] *= job.copy_s;
  store4(job.copy, at, sum, valid, TYPE_BF16, rows_of_four(job.copy, 0, TYPE_BF16), false);
}
