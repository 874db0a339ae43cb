// Matrix products on tensor cores (mma.sync), f32 sums: the function of gemm.cu, in less than f32 where that is asked for.
//
//   acc = (s · a2 · op(b2)) ⊙ mask;  acc += op(a[i]) · op(b[i]);  c[i] (+)= alpha · acc + bias
//
//   *_bf16_bf16, *_f16_f16  operands that have 16 bits: copied as they are by cp.async, four stages; a tail of the same type
//                           likewise, another one as two tf32 each, three products: 2⁻²² relative, f32's all but for a bit
//   *_bf16                  any operands, rounded to bf16 on their way through registers, two stages
//   *_bf16x3                the same as two bf16 each, three products (Henry, Tang, Heinecke 2019): 2⁻¹⁶ relative
//   *_tf32                  the same rounded to tf32
//
// Tiles 128 x 128 x 64 bytes of k, 8 warps of 64 x 32, mma m16n8k16 (tf32: m16n8k8): per 32 bytes of k 6 ldmatrix.x4 for
// 16 mma. In shared memory k runs along rows of 64 bytes whose four 16-byte chunks are turned by row/2, so that ldmatrix
// meets no bank twice; 16-bit operands with rows along memory stay so (256-byte rows, chunks turned by row) and are
// transposed by ldmatrix.trans. Sums run over r, then k, ascending: the bits of a row depend neither on m nor its place.
//   on paper: 2mnk FLOP; (m·n·k/128)·2 elements read, m·n written, in whole sectors where rows are aligned
//   ptxsim counts exactly these sectors and no bank conflict (tests/gemm_tc.rs asserts both)
//   gemm_tc_*_bf16_bf16, gemm_tc_*_f16_f16: 256 threads, 150 registers, 64 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   gemm_tc_*_bf16, gemm_tc_*_tf32: 256 threads, 220 registers, 34 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   gemm_tc_*_bf16x3: 256 threads, 226 registers, 64 KiB of shared memory: 1 block on 9.0, 1 on 8.6
// A file for each kind, so that the driver compiles what is used. Needs common.cuh, philox.cuh, operand.cuh, gemm.cuh and mma.cuh.
#pragma once

constexpr int THREADS = 256, TILE = 128;
constexpr int PART = TILE * 64;  // bytes of one part of an operand's tile: 128 rows of 64
constexpr int STAGES = 4;        // of the kernels for 16-bit operands
constexpr int OUT_PITCH = 136;   // floats of a row on the way out: eight rows of eight floats meet in no bank

enum Math { MATH_BF16, MATH_BF16X3, MATH_TF32, MATH_TF32X3, MATH_F16 };
// Whether operands are multiplied as tf32, and how many parts there are of each.
template <int MATH> constexpr bool IS_TF32 = MATH == MATH_TF32 || MATH == MATH_TF32X3;
template <int MATH> constexpr int PARTS_OF = MATH == MATH_BF16X3 || MATH == MATH_TF32X3 ? 2 : 1;

template <int MATH> DEVICE void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#define MMA(shape)                                                                                     \
  asm volatile("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"      \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                        \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if (IS_TF32<MATH>)
    MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  else if (MATH == MATH_F16)
    MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#undef MMA
}
// tf32 in the upper 19 bits, and the number that they are.
DEVICE u32 to_tf32(float f) {
  u32 d;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(d) : "f"(f));
  return d;
}
DEVICE float tf32(u32 word) { return __uint_as_float(word & ~0x1fffu); }
DEVICE void store_shared(u32 at, u32 a) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(a) : "memory"); }
DEVICE void store_shared(u32 at, u32 a, u32 b) { asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(at), "r"(a), "r"(b) : "memory"); }
DEVICE void store_shared(u32 at, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Where 16 bytes lie in a tile of rows of 64 bytes: eight rows of one chunk are in eight different bank groups.
DEVICE u32 chunk64(u32 row, u32 chunk) { return row * 64 + ((chunk ^ row >> 1) & 3) * 16; }
// The same for rows of 256 bytes.
DEVICE u32 chunk256(u32 row, u32 chunk) { return row * 256 + (chunk ^ row & 7) * 16; }

// An operand's tile by way of registers, converted there: 64 bytes of k for each of 128 rows. ALONG: k runs along memory.
template <int MATH, bool ALONG> struct Staged {
  static constexpr bool TF32 = IS_TF32<MATH>;
  static constexpr int DEPTH = TF32 ? 16 : 32;  // k of a tile
  static constexpr int QUADS = DEPTH / 8;       // of four elements, a thread
  static constexpr int PARTS = PARTS_OF<MATH>;
  float v[QUADS][4];

  // The place of a thread's quad i: row (the first of four if they run along memory) and k.
  DEVICE static void place(int i, u32& row, u32& k) {
    u32 t = threadIdx.x;
    if (ALONG) {
      row = (t + i * THREADS) / (DEPTH / 4);
      k = t % (DEPTH / 4) * 4;
    } else {
      // Sixteen k (or pairs of k) by two groups of four rows in a warp: 32-byte sectors in, no bank twice out.
      u32 pair = TF32 ? i : i / 2;
      row = (t / 32 * 2 + t % 2 + pair * 16) * 4;
      k = TF32 ? t % 32 / 2 : t % 32 / 2 * 2 + i % 2;
    }
  }
  DEVICE void load(const void* p, u32 type, u32 rows, u32 k, u32 row0, u32 k0, bool wide) {
#pragma unroll
    for (int i = 0; i < QUADS; i++) {
      u32 row, kk;
      place(i, row, kk);
      row += row0, kk += k0;
      u64 index = ALONG ? (u64)row * k + kk : (u64)kk * rows + row;
      int left = ALONG ? (row < rows ? (int)min(k - min(k, kk), 4u) : 0) : (kk < k ? (int)min(rows - min(rows, row), 4u) : 0);
      load4(v[i], p, index, left, type, wide);
    }
  }
  DEVICE void store(u32 s) {
    if (ALONG) {
#pragma unroll
      for (int i = 0; i < QUADS; i++) {
        u32 row, k;
        place(i, row, k);
        if (TF32) {
#pragma unroll
          for (int part = 0; part < PARTS; part++) {
            u32 w[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
              w[e] = to_tf32(v[i][e]);
              if (part + 1 < PARTS) v[i][e] -= tf32(w[e]);
            }
            store_shared(s + part * PART + chunk64(row, k / 4), w[0], w[1], w[2], w[3]);
          }
        } else {
#pragma unroll
          for (int part = 0; part < PARTS; part++) {
            u32 lo = pack_bf16(v[i][0], v[i][1]), hi = pack_bf16(v[i][2], v[i][3]);
            store_shared(s + part * PART + chunk64(row, k / 8) + k % 8 * 2, lo, hi);
            if (part + 1 < PARTS) subtract(v[i][0], v[i][1], lo), subtract(v[i][2], v[i][3], hi);
          }
        }
      }
    } else {
      constexpr int STEP = TF32 ? 1 : 2;
#pragma unroll
      for (int i = 0; i < QUADS; i += STEP) {
        u32 row, k, odd = threadIdx.x & 1;
        place(i, row, k);
        // Neighbouring lanes take rows of different parity, and so different halves of the banks.
#pragma unroll
        for (int e = 0; e < 4; e++) {
          u32 at = s + chunk64(row + (e ^ odd), TF32 ? k / 4 : k / 8) + (TF32 ? k % 4 * 4 : k % 8 * 2);
          float a = odd ? v[i][e ^ 1] : v[i][e];
          if (TF32) {
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
              u32 word = to_tf32(a);
              store_shared(at + part * PART, word);
              a -= tf32(word);
            }
          } else {
            float b = odd ? v[i + STEP - 1][e ^ 1] : v[i + STEP - 1][e];
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
              u32 word = pack_bf16(a, b);
              store_shared(at + part * PART, word);
              subtract(a, b, word);
            }
          }
        }
      }
    }
  }
  // What bf16 leaves over.
  DEVICE static void subtract(float& a, float& b, u32 word) {
    a -= __uint_as_float(word << 16);
    b -= __uint_as_float(word & 0xffff0000u);
  }
};

// The sums of a warp: 64 rows x 32 columns, mma tiles of 16 x 8.
struct Sums {
  float c[4][4][4];
};

// acc += a · bᵀ over the 64 bytes of k in shared memory.
template <int MATH> DEVICE void multiply(Sums& acc, u32 a, u32 b) {
  constexpr int PARTS = PARTS_OF<MATH>;
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = warp % 2 * 64, n = warp / 2 * 32;
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    u32 fb[PARTS][2][4];
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
      for (int j = 0; j < 2; j++) ldmatrix4(fb[p][j], b + p * PART + chunk64(n + j * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 fa[PARTS][4];
#pragma unroll
      for (int p = 0; p < PARTS; p++) ldmatrix4(fa[p], a + p * PART + chunk64(m + i * 16 + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // The small products first.
        if (PARTS == 2) {
          mma<MATH>(acc.c[i][j], fa[PARTS - 1], fb[0][j / 2][j % 2 * 2], fb[0][j / 2][j % 2 * 2 + 1]);
          mma<MATH>(acc.c[i][j], fa[0], fb[PARTS - 1][j / 2][j % 2 * 2], fb[PARTS - 1][j / 2][j % 2 * 2 + 1]);
        }
        mma<MATH>(acc.c[i][j], fa[0], fb[0][j / 2][j % 2 * 2], fb[0][j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

// acc += op(a) · op(b) by way of registers, two stages of shared memory.
template <int MATH, bool TA, bool TB>
DEVICE void staged(Sums& acc, u32 memory, const Gemm& g, const void* a, const void* b, u32 ta, u32 tb, u32 k, u32 row0, u32 col0) {
  using A = Staged<MATH, !TA>;
  using B = Staged<MATH, TB>;
  constexpr u32 HALF = PART * A::PARTS, STAGE = 2 * HALF;
  A la;
  B lb;
  u32 steps = (k + A::DEPTH - 1) / A::DEPTH;
  bool wide_a = rows_of_four(a, TA ? g.m : k, ta), wide_b = rows_of_four(b, TB ? k : g.n, tb);
#pragma unroll 1
  for (u32 step = 0; step <= steps; step++) {
    if (step < steps) {
      la.load(a, ta, g.m, k, row0, step * A::DEPTH, wide_a);
      lb.load(b, tb, g.n, k, col0, step * A::DEPTH, wide_b);
    }
    if (step > 0) {
      u32 s = memory + (step - 1) % 2 * STAGE;
      multiply<MATH>(acc, s, s + HALF);
    }
    if (step < steps) {
      u32 s = memory + step % 2 * STAGE;
      la.store(s);
      lb.store(s + HALF);
    }
    __syncthreads();
  }
}

// An operand's tile of 32 k in 16 bits, copied as it is. K along memory: rows of 64 bytes; else 32 rows of 256 bytes.
template <bool ALONG> DEVICE void copy_tile(u32 s, const void* p, u32 rows, u32 k, u32 row0, u32 k0, bool wide) {
  u32 major = ALONG ? rows : k, minor = ALONG ? k : rows, major0 = ALONG ? row0 : k0, minor0 = ALONG ? k0 : row0;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    u32 id = threadIdx.x + i * THREADS, r = ALONG ? id / 4 : id / 16, q = ALONG ? id % 4 : id % 16;
    u32 y = major0 + r, x = minor0 + q * 8, at = s + (ALONG ? chunk64(r, q) : chunk256(r, q));
    u32 left = y < major ? min(minor - min(minor, x), 8u) : 0;
    const u16* from = (const u16*)p + (left ? (u64)y * minor + x : 0);
    if (wide) {
      cp_async16(at, from, left * 2);
    } else {
      // Rows that are not aligned: element by element.
      u32 w[4] = {0, 0, 0, 0};
#pragma unroll 1
      for (u32 j = 0; j < 8; j += 2) {
        u32 word = (j < left ? from[j] : 0u) | (j + 1 < left ? (u32)from[j + 1] << 16 : 0u);
        w[0] = w[1], w[1] = w[2], w[2] = w[3], w[3] = word;
      }
      store_shared(at, w[0], w[1], w[2], w[3]);
    }
  }
}

// acc += op(a) · op(b) for operands of 16 bits: cp.async in STAGES stages, transposed by ldmatrix where needed.
template <int MATH, bool TA, bool TB>
DEVICE void copied(Sums& acc, u32 memory, const Gemm& g, const void* op_a, const void* op_b, u32 depth, u32 row0, u32 col0) {
  constexpr u32 STAGE = 2 * PART;
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, m = warp % 2 * 64, n = warp / 2 * 32, steps = (depth + 31) / 32;
  bool wide_a = ((u64)op_a & 15) == 0 && (TA ? g.m : depth) % 8 == 0, wide_b = ((u64)op_b & 15) == 0 && (TB ? depth : g.n) % 8 == 0;
  auto load = [&](u32 step) {
    u32 s = memory + step % STAGES * STAGE;
    if (step < steps) {
      copy_tile<!TA>(s, op_a, g.m, depth, row0, step * 32, wide_a);
      copy_tile<TB>(s + PART, op_b, g.n, depth, col0, step * 32, wide_b);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i);
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    load(step + STAGES - 1);
    u32 a = memory + step % STAGES * STAGE, b = a + PART;
#pragma unroll
    for (int k = 0; k < 2; k++) {
      u32 fb[2][4];
#pragma unroll
      for (int j = 0; j < 2; j++)
        if (TB)
          ldmatrix4(fb[j], b + chunk64(n + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
        else
          ldmatrix4_trans(fb[j], b + chunk256(k * 16 + lane % 16, n / 8 + j * 2 + lane / 16));
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 fa[4];
        if (!TA)
          ldmatrix4(fa, a + chunk64(m + i * 16 + lane % 16, k * 2 + lane / 16));
        else
          ldmatrix4_trans(fa, a + chunk256(k * 16 + lane % 8 + lane / 16 * 8, m / 8 + i * 2 + lane / 8 % 2));
#pragma unroll
        for (int j = 0; j < 4; j++) mma<MATH>(acc.c[i][j], fa, fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();
}

// Sums of rows 64 i … to shared memory and back, for the warps that have them.
DEVICE float* out_at(float* out, int i, int j, int half) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return &out[(i * 16 + half * 8 + lane / 4) * OUT_PITCH + warp / 2 * 32 + j * 8 + lane % 4 * 2];
}
DEVICE void put_rows(const Sums& acc, float* out) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        store_shared(shared_address(out_at(out, i, j, h)), __float_as_uint(acc.c[i][j][h * 2]), __float_as_uint(acc.c[i][j][h * 2 + 1]));
}

// acc = s · acc ⊙ mask
DEVICE void scale_tail(Sums& acc, const Gemm& g, float* out, u32 row0, u32 col0) {
#pragma unroll
  for (int i = 0; i < 64; i++) acc.c[i / 16][i / 4 % 4][i % 4] *= g.s;
  if (!g.scalars) return;
  u32 step = (u32)g.scalars[0], warp = threadIdx.x / 32;
#pragma unroll 1
  for (u32 i = 0; i < 2; i++) {
    if (warp % 2 == i) put_rows(acc, out);
    __syncthreads();
#pragma unroll 1
    for (u32 id = threadIdx.x; id < 64 * TILE / 4; id += THREADS) {
      float* at = &out[id / (TILE / 4) * OUT_PITCH + id % (TILE / 4) * 4];
      float4 x = load_shared4(at);
      float v[4] = {x.x, x.y, x.z, x.w};
      mask4(v, (u64)(row0 + i * 64 + id / (TILE / 4)) * g.n + col0 + id % (TILE / 4) * 4, g.drop, step);
      store_shared4(at, v[0], v[1], v[2], v[3]);
    }
    __syncthreads();
    if (warp % 2 == i) {
#pragma unroll
      for (int e = 0; e < 32; e++) {
        const float* from = out_at(out, e / 8, e / 2 % 4, e % 2);
        asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(acc.c[e / 8][e / 2 % 4][e % 2 * 2]), "=f"(acc.c[e / 8][e / 2 % 4][e % 2 * 2 + 1]) : "r"(shared_address(from)));
      }
    }
    __syncthreads();
  }
}

// MATH of the products; NATIVE: both operands have 16 bits already.
template <int MATH, bool NATIVE, bool TA, bool TB> DEVICE void gemm(Gemm g) {
  extern __shared__ __align__(128) float memory[];
  u32 shared = shared_address(memory), tile_m, tile_n;
  place((g.m + TILE - 1) / TILE, (g.n + TILE - 1) / TILE, blockIdx.x, tile_m, tile_n);
  u32 row0 = tile_m * TILE, col0 = tile_n * TILE, batch = blockIdx.z, warp = threadIdx.x / 32;
  g.a = element(g.a, (u64)batch * g.m * g.k, g.ta);
  g.b = element(g.b, (u64)batch * g.k * g.n, g.tb);
  char* c = (char*)g.c + (u64)batch * g.m * g.n * type_size(g.tc);
  Sums acc;
#pragma unroll
  for (int i = 0; i < 64; i++) acc.c[i / 16][i / 4 % 4][i % 4] = 0.f;
  if constexpr (NATIVE) {
    u32 type = MATH == MATH_F16 ? TYPE_F16 : TYPE_BF16;
#pragma unroll 1
    for (int tail = g.k2 ? 1 : 0; tail >= 0; tail--) {
      if (tail && (g.ta2 != type || g.tb2 != type))
        staged<MATH_TF32X3, TA, TB>(acc, shared, g, g.a2, g.b2, g.ta2, g.tb2, g.k2, row0, col0);
      else
        copied<MATH, TA, TB>(acc, shared, g, tail ? g.a2 : g.a, tail ? g.b2 : g.b, tail ? g.k2 : g.k, row0, col0);
      if (tail) scale_tail(acc, g, memory, row0, col0);
    }
  } else {
    if (g.k2) {
      staged<MATH, TA, TB>(acc, shared, g, g.a2, g.b2, g.ta2, g.tb2, g.k2, row0, col0);
      scale_tail(acc, g, memory, row0, col0);
    }
    staged<MATH, TA, TB>(acc, shared, g, g.a, g.b, g.ta, g.tb, g.k, row0, col0);
  }

  // Out through shared memory, 64 rows at a time, so that a warp writes whole rows.
  bool wide = rows_of_four(c, g.n, g.tc);
#pragma unroll 1
  for (u32 i = 0; i < 2; i++) {
    if (warp % 2 == i) put_rows(acc, memory);
    __syncthreads();
#pragma unroll 1
    for (u32 id = threadIdx.x; id < 64 * TILE / 4; id += THREADS) {
      float4 sum = load_shared4(&memory[id / (TILE / 4) * OUT_PITCH + id % (TILE / 4) * 4]);
      write4(g, c, row0 + i * 64 + id / (TILE / 4), col0 + id % (TILE / 4) * 4, sum, wide);
    }
    __syncthreads();
  }
}

#define ENTRY(name, MATH, NATIVE, layout, TA, TB)                                         \
  extern "C" __global__ void __launch_bounds__(THREADS, 1)                                \
      gemm_tc_##layout##_##name(const __grid_constant__ Gemm g) {                         \
    gemm<MATH, NATIVE, TA, TB>(g);                                                        \
  }
#define LAYOUTS(name, MATH, NATIVE)       \
  ENTRY(name, MATH, NATIVE, nn, false, false) \
  ENTRY(name, MATH, NATIVE, nt, false, true)  \
  ENTRY(name, MATH, NATIVE, tn, true, false)
