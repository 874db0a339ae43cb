// The rank-r sums of the low-rank linear on tensor cores (mma.sync m16n8k16): the function of lora.cu, with x, h and b
// rounded to bf16 and f32 sums. For Precision::Bf16 and for operands that are bf16 already.
//
//   U: u = x̂ · op(b), sums over columns:    h = x̂ Aᵀ (x̂ = x ⊙ mask),   u = gy B
//   V: v = x̂ᵀ · h, sums over rows:          db = gyᵀ h,                 da = (x̂ᵀ u)ᵀ
//
// As in lora.cu a block takes a slice of 8192/R columns through its rows and leaves partial sums for `lora_sum`; here 32
// rows at a time are in shared memory as bf16, and the next 32 on their way in registers. Each of the 8 warps owns 64
// columns x 16 ranks, in U and in V alike: 16 mma each for 32 rows. Its part of b stays in 16 registers, the sums of V in
// 32; partial sums of U over the warps of a rank go through shared memory in a fixed order. x is read from shared memory
// by ldmatrix for U and by ldmatrix.trans for V; chunks of 16 bytes are turned by the row, so that no bank is met twice.
// The mask puts zeros; 1/(1−p) is a factor of the second pass, so that nothing is rounded twice.
//   on paper: 2mcr FLOP each; mc elements read once, (slices·m + blocks·c)·r floats out and in again; b once a block
//   ptxsim counts exactly these sectors and no bank conflict for u and v (tests/lora_tc.rs asserts both); a copy of x for
//   Hopper's products is mc more out, none in
//   lora_tc_*_16_f32: 256 threads, 196 registers, 57 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_32_f32: 256 threads, 153 registers, 40 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_64_f32: 256 threads, 149 registers, 36 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_128_f32: 256 threads, 146 registers, 34 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_16_16bit: 256 threads, 145 registers, 57 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_32_16bit: 256 threads, 130 registers, 40 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   lora_tc_*_64_16bit: 256 threads, 121 registers, 36 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   lora_tc_*_128_16bit: 256 threads, 134 registers, 34 KiB of shared memory: 1 block on 9.0, 1 on 8.6
// A file for each rank, so that the driver compiles what is used. Needs common.cuh, philox.cuh, operand.cuh and mma.cuh.
#pragma once

// As in lora.cu; `drop.keep_scale` is not looked at. `copy`, if there is one, gets x [m,c] in bf16, without the mask, from
// the registers that x passes through: x is f32 then, its rows aligned. x that is bf16 already needs none.
struct Lora {
  const void* x;
  const void* b;
  const void* h;
  float* u;
  float* v;
  const float* scalars;
  u32 m, c, r, rows;
  u32 tx, tb, th;
  u32 b_along, v_across;
  Dropout drop;
  u16* copy;
};

constexpr int THREADS = 256;
constexpr int ROWS = 32;

DEVICE void store_shared(u32 at, u32 a) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(a) : "memory"); }
DEVICE void store_shared(u32 at, u32 a, u32 b) { asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(at), "r"(a), "r"(b) : "memory"); }
DEVICE void store_shared(u32 at, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

template <int R, bool U, bool V, bool F32> struct Shape {
  static constexpr int SLICE = 8192 / R;
  // A thread loads chunks of 16 bytes: 4 columns of f32 or 8 of 16 bits.
  static constexpr int WIDTH = F32 ? 4 : 8, LANES = SLICE / WIDTH, STEP = THREADS / LANES, CHUNKS = ROWS / STEP;
  static constexpr int H_QUADS = (ROWS * R / 4 + THREADS - 1) / THREADS;
  static constexpr int GROUPS = SLICE / 64;  // warps that share ranks
  static constexpr int X = ROWS * SLICE * 2, H = ROWS * R * 2, PART = GROUPS * ROWS * (R + 8) * 4;
};

template <int R, bool U, bool V, bool F32> DEVICE void skinny(const Lora& p) {
  using S = Shape<R, U, V, F32>;
  extern __shared__ __align__(128) float memory[];
  u32 xs = shared_address(memory), hs = xs + S::X;
  float* part = memory + (S::X + (V ? S::H : 0)) / 4;
  u32 t = threadIdx.x, lane = t % 32, warp = t / 32, slice = blockIdx.x, c0 = slice * S::SLICE;
  u32 first = blockIdx.y * p.rows, end = min(p.m, first + p.rows);
  u32 n0 = warp % (R / 16) * 16, group = warp / (R / 16), w0 = group * 64;  // ranks and columns of the warp
  bool wide_x = ((u64)p.x & 15) == 0 && p.c % S::WIDTH == 0, wide_h = V && rows_of_four(p.h, p.r, p.th);
  // Bytes of the 16-byte chunk of a row of x, and of h.
  auto x_at = [&](u32 row, u32 chunk) { return xs + row * S::SLICE * 2 + (chunk ^ row & 7) * 16; };
  auto h_at = [&](u32 row, u32 chunk) { return hs + (row * R * 2 + chunk * 16 ^ (R == 16 ? row / 4 % 2 * 16 : R == 32 ? row / 2 % 4 * 16 : row % 8 * 16)); };

  // Rows of 16 ranks are 24 words apart in shared memory: neighbouring lanes read rows two apart, which meet in no bank.
  auto turned = [](u32 row) { return R == 16 ? row & ~3u | row % 2 * 2 | row / 2 % 2 : row; };

  // b as the mma wants it: column pairs (lane % 4) of each 16 of k, ranks lane / 4; by way of the memory of x, where the
  // pair of columns 2i, 2i + 1 of rank j is word i · R + j.
  u32 fb[4][2][2];
  if (U) {
    bool wide = rows_of_four(p.b, p.b_along ? p.c : p.r, p.tb);
    if (p.b_along) {
#pragma unroll 1
      for (u32 id = t; id < S::SLICE * R / 4; id += THREADS) {
        // Eight rows of 64 bytes at a time: whole sectors.
        u32 q = id % 4 + id / (R * 4) * 4, j = id / 4 % R, c = c0 + q * 4;
        float v[4];
        load4(v, p.b, (u64)j * p.c + c, j < p.r ? (int)min(p.c - min(p.c, c), 4u) : 0, p.tb, wide);
        store_shared(xs + (q * 2 * R + j) * 4, pack_bf16(v[0], v[1]));
        store_shared(xs + (q * 2 * R + R + j) * 4, pack_bf16(v[2], v[3]));
      }
    } else {
#pragma unroll 1
      for (u32 id = t; id < S::SLICE / 2 * R / 4; id += THREADS) {
        u32 i = id / (R / 4), j = id % (R / 4) * 4, c = c0 + i * 2;
        int valid = (int)min(p.r - min(p.r, j), 4u);
        float v[4], w[4];
        load4(v, p.b, (u64)c * p.r + j, c < p.c ? valid : 0, p.tb, wide);
        load4(w, p.b, (u64)(c + 1) * p.r + j, c + 1 < p.c ? valid : 0, p.tb, wide);
        store_shared(xs + id * 16, pack_bf16(v[0], w[0]), pack_bf16(v[1], w[1]), pack_bf16(v[2], w[2]), pack_bf16(v[3], w[3]));
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 16; i++) {
      u32 at = xs + ((w0 / 2 + i / 4 * 8 + i % 2 * 4 + lane % 4) * R + n0 + i / 2 % 2 * 8 + lane / 4) * 4;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(fb[i / 4][i / 2 % 2][i % 2]) : "r"(at) : "memory");
    }
    __syncthreads();
  }

  u32 xrow = t / S::LANES, xc = t % S::LANES * S::WIDTH;
  u32 left = min(p.c - min(p.c, c0 + xc), (u32)S::WIDTH);
  u32 x[S::CHUNKS][4];
  float h[S::H_QUADS][4];
  auto load = [&](u32 row0) {
#pragma unroll
    for (int i = 0; i < S::CHUNKS; i++) {
      u32 row = row0 + xrow + i * S::STEP;
      uint4 q = make_uint4(0, 0, 0, 0);
      if (wide_x && row < end && left) q = *(const uint4*)((const char*)p.x + ((u64)row * p.c + c0 + xc) * (F32 ? 4 : 2));
      x[i][0] = q.x, x[i][1] = q.y, x[i][2] = q.z, x[i][3] = q.w;
    }
    if (V) {
#pragma unroll
      for (int i = 0; i < S::H_QUADS; i++) {
        u32 id = t + i * THREADS, row = row0 + id / (R / 4), j = id % (R / 4) * 4;
        if (id < ROWS * R / 4) load4(h[i], p.h, (u64)row * p.r + j, row < end ? (int)min(p.r - min(p.r, j), 4u) : 0, p.th, wide_h);
      }
    }
  };
  auto store = [&](u32 row0) {
    bool masked = !(U && V) && p.scalars;  // gy has no mask
    u32 step = masked ? (u32)p.scalars[0] : 0;
    if (wide_x) {
#pragma unroll
      for (int i = 0; i < S::CHUNKS; i++) {
        u32 row = xrow + i * S::STEP, w[4];
        if (F32) {
          w[0] = pack_bf16(__uint_as_float(x[i][0]), __uint_as_float(x[i][1]));
          w[1] = pack_bf16(__uint_as_float(x[i][2]), __uint_as_float(x[i][3]));
          store_shared(x_at(row, xc / 8) + xc % 8 * 2, w[0], w[1]);
          // One instruction; the compiler would split it.
          if (U && p.copy && row0 + row < end && left)
            asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(p.copy + (u64)(row0 + row) * p.c + c0 + xc), "r"(w[0]), "r"(w[1]) : "memory");
        } else {
#pragma unroll
          for (int j = 0; j < 4; j++)
            w[j] = p.tx == TYPE_BF16 ? x[i][j] : pack_bf16(from_16(x[i][j] & 0xffff, TYPE_F16), from_16(x[i][j] >> 16, TYPE_F16));
          store_shared(x_at(row, xc / 8), w[0], w[1], w[2], w[3]);
        }
      }
    } else {
      // Rows that are not aligned: four elements a turn, straight from global memory.
#pragma unroll 1
      for (u32 row = xrow; row < ROWS; row += S::STEP)
#pragma unroll 1
        for (u32 j = 0; j < S::WIDTH; j += 4) {
          float v[4];
          int valid = row0 + row < end ? (int)min(left - min(left, j), 4u) : 0;
          load4(v, p.x, (u64)(row0 + row) * p.c + c0 + xc + j, valid, p.tx, false);
          store_shared(x_at(row, (xc + j) / 8) + (xc + j) % 8 * 2, pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
        }
    }
    if (masked) {
      // In shared memory, each thread what it has just written: a loop over registers would be unrolled.
#pragma unroll 1
      for (u32 row = xrow; row < ROWS; row += S::STEP)
#pragma unroll 1
        for (u32 j = 0; j < S::WIDTH; j += 4) {
          u32 at = x_at(row, (xc + j) / 8) + (xc + j) % 8 * 2, w[2];
          asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(at));
          float keep[4] = {1.f, 1.f, 1.f, 1.f};
          mask4(keep, (u64)(row0 + row) * p.c + c0 + xc + j, p.drop, step);
          w[0] &= (keep[0] != 0.f ? 0xffffu : 0u) | (keep[1] != 0.f ? 0xffff0000u : 0u);
          w[1] &= (keep[2] != 0.f ? 0xffffu : 0u) | (keep[3] != 0.f ? 0xffff0000u : 0u);
          store_shared(at, w[0], w[1]);
        }
    }
    if (V) {
#pragma unroll
      for (int i = 0; i < S::H_QUADS; i++) {
        u32 id = t + i * THREADS, row = id / (R / 4), j = id % (R / 4) * 4;
        if (id < ROWS * R / 4) store_shared(h_at(row, j / 8) + j % 8 * 2, pack_bf16(h[i][0], h[i][1]), pack_bf16(h[i][2], h[i][3]));
      }
    }
  };

  float acc[4][2][4];
#pragma unroll
  for (int i = 0; i < 32; i++) acc[i / 8][i / 4 % 2][i % 4] = 0.f;
  if (first < end) load(first);
#pragma unroll 1
  for (u32 row0 = first; row0 < end; row0 += ROWS) {
    store(row0);
    __syncthreads();
    if (row0 + ROWS < end) load(row0 + ROWS);
    if (U) {
      float s[2][2][4] = {};
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          u32 a[4];
          ldmatrix4(a, x_at(i * 16 + lane % 16, w0 / 8 + k * 2 + lane / 16));
#pragma unroll
          for (int j = 0; j < 2; j++) mma(s[i][j], a, fb[k][j][0], fb[k][j][1]);
        }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        // Rows of ranks, 8 words longer than they need: eight rows of eight words meet in no bank.
        float* at = &part[(group * ROWS + i / 4 * 16 + i % 2 * 8 + lane / 4) * (R + 8) + n0 + i / 2 % 2 * 8 + lane % 4 * 2];
        store_shared(shared_address(at), __float_as_uint(s[i / 4][i / 2 % 2][i % 2 * 2]), __float_as_uint(s[i / 4][i / 2 % 2][i % 2 * 2 + 1]));
      }
    }
    if (V) {
#pragma unroll
      for (int k = 0; k < 2; k++) {
        u32 b[4];
        ldmatrix4_trans(b, h_at(k * 16 + lane % 16, n0 / 8 + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          u32 a[4];
          ldmatrix4_trans(a, x_at(k * 16 + lane % 8 + lane / 16 * 8, w0 / 8 + i * 2 + lane / 8 % 2));
#pragma unroll
          for (int j = 0; j < 2; j++) mma(acc[i][j], a, b[j * 2], b[j * 2 + 1]);
        }
      }
    }
    __syncthreads();
    if (U) {
      bool wide = (p.r & 3) == 0;
#pragma unroll 1
      for (u32 id = t; id < ROWS * R / 4; id += THREADS) {
        u32 row = turned(id / (R / 4)), j = id % (R / 4) * 4;
        float v[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 2
        for (int g = 0; g < S::GROUPS; g++) {
          float4 q = load_shared4(&part[(g * ROWS + row) * (R + 8) + j]);
          v[0] += q.x, v[1] += q.y, v[2] += q.z, v[3] += q.w;
        }
        if (row0 + row < end) store4(p.u, ((u64)slice * p.m + row0 + row) * p.r + j, v, (int)(p.r - min(p.r, j)), TYPE_F32, wide, false);
      }
    }
  }

  if (V) {
    // Out through shared memory, so that a warp writes whole rows: of r, or of columns.
    if (U) __syncthreads();
    float* out = p.v + (u64)blockIdx.y * p.c * p.r;
    u32 pitch = p.v_across ? S::SLICE + 4 : R + 8;
#pragma unroll
    for (int i = 0; i < 32; i++) {
      u32 c = w0 + i / 8 * 16 + i / 2 % 2 * 8 + lane / 4, j = n0 + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2;
      float v = acc[i / 8][i / 4 % 2][i % 4];
      if (p.v_across)
        memory[j * pitch + c] = v;
      else if (i % 2 == 0)
        store_shared(shared_address(&memory[c * pitch + j]), __float_as_uint(v), __float_as_uint(acc[i / 8][i / 4 % 2][i % 4 + 1]));
    }
    __syncthreads();
    u32 per = (p.v_across ? S::SLICE : R) / 4, width = p.v_across ? p.c : p.r;
    bool wide = (width & 3) == 0 && ((u64)out & 15) == 0;
#pragma unroll 1
    for (u32 id = t; id < S::SLICE * R / 4; id += THREADS) {
      u32 row = p.v_across ? id / per : turned(id / per), at = id % per * 4, col = at + (p.v_across ? c0 : 0);
      float4 q = load_shared4(&memory[row * pitch + at]);
      float v[4] = {q.x, q.y, q.z, q.w};
      bool inside = p.v_across ? row < p.r : c0 + row < p.c;
      u64 to = p.v_across ? row : c0 + row;
      if (inside && col < width) store4(out, to * width + col, v, (int)(width - col), TYPE_F32, wide, false);
    }
  }
}

#define SKINNY(name, R, U, V)                                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) lora_tc_##name##_##R##_f32(const __grid_constant__ Lora p) {  \
    skinny<R, U, V, true>(p);                                                                                            \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) lora_tc_##name##_##R##_16bit(const __grid_constant__ Lora p) { \
    skinny<R, U, V, false>(p);                                                                                           \
  }
#define RANK(R) SKINNY(u, R, true, false) SKINNY(v, R, false, true) SKINNY(uv, R, true, true)
