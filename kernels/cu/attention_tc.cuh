// Attention with grouped heads on tensor cores (mma.sync m16n8k16), forward and backward: the function of attention.cu with
// the operands of every product in bf16 and f32 sums; softmax, lse and delta are f32 (Dao 2023, FlashAttention-2, algorithms
// 1 and 2).
//
//   tc_*       operands are bf16 in memory, P and dS are rounded
//   tc_f32_*   operands are f32 in memory, they and P and dS are rounded
//   tc_full_*  operands are bf16 in memory; P and dS go as the sum of three bf16, so that no product is rounded
//
//   forward:  S = s q kᵀ;  y = softmax(S) v;  lse = log Σ exp S, by one pass over the keys with a running maximum
//   backward: P = exp(S − lse);  dS = P ⊙ (gy vᵀ − delta)
//             dv = Pᵀ gy;  dk = s dSᵀ q   (a block of keys runs over the heads of its group and their queries, S and gy vᵀ
//                                          transposed, so that P and dS are where the next product wants them)
//             dq = s dS k                 (a block of queries runs over the keys)
// The sums of S that a thread holds are, rounded, its part of the next product's operand: P and dS never leave registers.
// Each result has one writer that adds in a fixed order: no atomics, the same bits on every run. Tiles that the mask hides
// are skipped by the block, those hidden from a warp's rows by the warp.
//
// A warp owns 16 or 32 rows of the result, a block 128. Forward, v is on its way during q kᵀ, the next k during P v; in
// backward the other side comes 32 rows at a time in two stages, with lse and delta where that is queries: by cp.async if it
// is bf16 in rows of whole aligned 16 bytes; f32 in aligned rows waits in registers meanwhile; rows that are not aligned are
// loaded where they are needed. Tiles of k and of S are as large as registers allow without a spill. In shared memory rows
// have 2·D bytes whose 16-byte chunks are turned by the row (chunk ^ row % 8): ldmatrix, with and without .trans, and the
// stores meet no bank twice. Head sizes below D are filled up with zeros.
//   on paper: forward 4, dq 6, dkv 8 · queries · keys · dim FLOP (full: 8, 10, 16), half of it with a causal mask
//   forward q and y once, lse out, k and v for each 128 queries; dq q, gy and dq once, lse, delta, k and v for each 128
//   queries; dkv k, v, dk and dv once, q, gy, lse and delta for each 128 keys
//   ptxsim counts exactly these sectors and no bank conflict (tests/attention_tc.rs asserts both)
//   keys at a time: forward_64 and f32_forward_64 64; full_forward_64, forward_128 32; f32_forward_128, full_forward_128 16
//   attention_tc_forward_64, attention_tc_f32_forward_64: 128 threads, 255 registers, 32 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_full_forward_64: 128 threads, 206 registers, 24 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_forward_128: 128 threads, 253 registers, 48 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_*_forward_128: 128 threads, 242 registers, 40 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_dq_64, attention_tc_*_dq_64: 128 threads, 246 registers, 48 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_dkv_64, attention_tc_*_dkv_64: 128 threads, 254 registers, 48.5 KiB of shared memory: 2 blocks on 9.0, 2 on 8.6
//   attention_tc_dq_128, attention_tc_*_dq_128: 256 threads, 242 registers, 96 KiB of shared memory: 1 block on 9.0, 1 on 8.6
//   attention_tc_dkv_128, attention_tc_*_dkv_128: 256 threads, 255 registers, 96.5 KiB of shared memory: 1 block on 9.0, 1 on 8.6
// A file for each of these and each D, so that the driver compiles what is used. Needs common.cuh, philox.cuh, operand.cuh, attention.cuh and mma.cuh.
#pragma once

DEVICE void store_shared(u32 at, u32 a, u32 b) { asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(at), "r"(a), "r"(b) : "memory"); }
DEVICE void load_shared2(float& a, float& b, u32 at) { asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(a), "=f"(b) : "r"(at) : "memory"); }
DEVICE void cp_async4(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where 16 bytes lie in a tile of rows of D bf16.
template <int D> DEVICE u32 chunk_at(u32 row, u32 chunk) { return row * (D * 2) + (chunk ^ row & 7) * 16; }

// How rows of an operand come to shared memory.
enum Way : u32 { COPIED, WIDE, NARROW };
DEVICE u32 way(const void* p, u32 dim, u32 type) {
  if (((u64)p & 15) == 0 && type == TYPE_BF16 && dim % 8 == 0) return COPIED;
  return ((u64)p & 15) == 0 && type == TYPE_F32 && dim % 4 == 0 ? WIDE : NARROW;
}

// Where rows of dim elements are, those of a tile, `stride` apart; from `left` on there are none.
struct Rows {
  const void* from;
  u64 first;
  u32 stride, left, dim, type, by;
};

// ROWS such rows on their way to shared memory as bf16; rows and columns that are not there are zeros. Between `start` and
// `finish` they come by cp.async, or wait in registers. Before `start` nobody may read the tile in shared memory any more if
// they are copied, before `finish` in any case.
template <int D, int ROWS, int THREADS, bool F32> struct Tile {
  static constexpr int QUADS = F32 ? ROWS * D / 4 / THREADS : 1;
  float4 v[QUADS];

  DEVICE void start(u32 s, const Rows& r) {
    u32 t = threadIdx.x;
    if (!F32 && r.by == COPIED) {
      constexpr int STEP = THREADS / (D / 8);  // rows that all threads together take
      static_assert(STEP % 8 == 0, "chunks are turned alike");
      u32 row = t / (D / 8), c = t % (D / 8), left = c * 8 < r.dim ? r.left : 0;
      const u16* at = (const u16*)r.from + r.first + (u64)row * r.stride + c * 8;
      s += chunk_at<D>(row, c);
#pragma unroll
      for (int i = 0; i < ROWS / STEP; i++, at += (u64)STEP * r.stride) {
        bool in = row + i * STEP < left;
        cp_async16(s + i * STEP * D * 2, in ? at : r.from, in ? 16 : 0);
      }
    } else if (F32 && r.by == WIDE) {
      constexpr int STEP = THREADS / (D / 4);
      u32 row = t / (D / 4), c = t % (D / 4) * 4, left = c < r.dim ? r.left : 0;
      const float* at = (const float*)r.from + r.first + (u64)row * r.stride + c;
#pragma unroll
      for (int i = 0; i < QUADS; i++, at += (u64)STEP * r.stride) {
        v[i] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (row + i * STEP < left) v[i] = *(const float4*)at;
      }
    }
  }
  DEVICE void finish(u32 s, const Rows& r) {
    u32 t = threadIdx.x;
    if (F32 && r.by == WIDE) {
      constexpr int STEP = THREADS / (D / 4);
      u32 row = t / (D / 4), c = t % (D / 4) * 4;
#pragma unroll
      for (int i = 0; i < QUADS; i++)
        store_shared(s + chunk_at<D>(row + i * STEP, c / 8) + c % 8 * 2, pack_bf16(v[i].x, v[i].y), pack_bf16(v[i].z, v[i].w));
    } else if (r.by == NARROW) {
#pragma unroll 1
      for (u32 id = t; id < ROWS * D / 4; id += THREADS) {
        u32 row = id / (D / 4), c = id % (D / 4) * 4;
        float x[4];
        load4(x, r.from, r.first + (u64)row * r.stride + c, row < r.left ? (int)min(r.dim - min(r.dim, c), 4u) : 0, r.type, false);
        store_shared(s + chunk_at<D>(row, c / 8) + c % 8 * 2, pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
      }
    }
  }
};

// The same at once, 32 rows at a time, for tiles that are loaded but once.
template <int D, int ROWS, int THREADS, bool F32> DEVICE void load_rows(u32 s, Rows r) {
#pragma unroll 1
  for (u32 row = 0; row < ROWS; row += 32, s += 32 * D * 2) {
    Tile<D, 32, THREADS, F32> tile;
    tile.start(s, r);
    tile.finish(s, r);
    r.first += (u64)32 * r.stride, r.left -= min(r.left, 32u);
  }
}

// The rows of a warp: MT times 16, and 8 · NT columns. A thread has of each 16 x 8: row lane / 4 (and 8 more: elements 2
// and 3), columns lane % 4 · 2 and the next.
template <int MT, int NT> struct Sums {
  float c[MT][NT][4];
  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) c[i / (NT * 4)][i / 4 % NT][i % 4] = 0.f;
  }
};

// acc = a · bᵀ: rows of a, rows of b, over D.
template <int D, int MT, int NT> DEVICE void scores(Sums<MT, NT>& acc, u32 a, u32 b) {
  u32 lane = threadIdx.x % 32;
  acc.clear();
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    u32 fa[MT][4];
#pragma unroll
    for (int i = 0; i < MT; i++) ldmatrix4(fa[i], a + chunk_at<D>(i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
    for (int j = 0; j < NT / 2; j++) {
      u32 fb[4];
      ldmatrix4(fb, b + chunk_at<D>(j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < MT; i++) {
        mma(acc.c[i][2 * j], fa[i], fb[0], fb[1]);
        mma(acc.c[i][2 * j + 1], fa[i], fb[2], fb[3]);
      }
    }
  }
}

// acc += w · b over the rows of b, w as a sum of PARTS bf16: rounded, or as it is in 24 bits. w is lost.
template <int D, int PARTS, int MT, int NT> DEVICE void weigh(Sums<MT, D / 8>& acc, Sums<MT, NT>& w, u32 b) {
  u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < NT / 2; k++) {
    u32 fa[PARTS][MT][4];
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float &lo = w.c[i][2 * k + e / 2][e % 2 * 2], &hi = w.c[i][2 * k + e / 2][e % 2 * 2 + 1];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
          u32 word = pack_bf16(lo, hi);
          fa[part][i][e] = word;
          if (part + 1 < PARTS) lo -= __uint_as_float(word << 16), hi -= __uint_as_float(word & 0xffff0000u);
        }
      }
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      u32 fb[4];
      ldmatrix4_trans(fb, b + chunk_at<D>(k * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
      for (int i = 0; i < MT; i++)
        // The small parts first.
#pragma unroll
        for (int part = PARTS - 1; part >= 0; part--) {
          mma(acc.c[i][2 * n], fa[part][i], fb[0], fb[1]);
          mma(acc.c[i][2 * n + 1], fa[part][i], fb[2], fb[3]);
        }
    }
  }
}

// Writes factor · acc to a warp's rows of [·, heads, dim], by way of shared memory of the warp's own, so that whole rows
// leave at a time. Rows there are 8 words longer than they need: four rows of eight words meet in no bank.
template <int D, int MT>
DEVICE void write(float* memory, void* out, const Sums<MT, D / 8>& acc, const float (&factor)[MT][2], u64 first, u32 stride,
                  u32 left, u32 dim, u32 type, u32 add) {
  constexpr int PITCH = D + 8;
  u32 lane = threadIdx.x % 32;
  float* own = memory + threadIdx.x / 32 * 16 * PITCH;
  bool wide = rows_of_four(out, dim, type);
#pragma unroll
  for (int i = 0; i < MT; i++) {
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        store_shared(shared_address(&own[(h * 8 + lane / 4) * PITCH + n * 8 + lane % 4 * 2]),
                     __float_as_uint(acc.c[i][n][2 * h] * factor[i][h]), __float_as_uint(acc.c[i][n][2 * h + 1] * factor[i][h]));
    __syncwarp();
#pragma unroll 1
    for (u32 id = lane; id < 16 * D / 4; id += 32) {
      u32 row = id / (D / 4), c = id % (D / 4) * 4;
      float4 q = load_shared4(&own[row * PITCH + c]);
      float v[4] = {q.x, q.y, q.z, q.w};
      if (i * 16 + row < left && c < dim)
        store4(out, first + (u64)(i * 16 + row) * stride + c, v, (int)min(dim - c, 4u), type, wide, add);
    }
  }
}

DEVICE float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
DEVICE float quad_sum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

template <int D, int WARPS, int MT, int BK, int PARTS, bool F32> DEVICE void forward(const Attention& p) {
  constexpr int THREADS = WARPS * 32, BQ = WARPS * MT * 16, NT = BK / 8;
  extern __shared__ __align__(128) float memory[];
  u32 qs = shared_address(memory), ks = qs + BQ * D * 2, vs = ks + BK * D * 2;
  // The last queries have the most keys: they start first.
  u32 tiles = (p.q_len + BQ - 1) / BQ, tile = tiles - 1 - blockIdx.x % tiles;
  u32 head = blockIdx.x / tiles % p.heads, batch = blockIdx.x / tiles / p.heads;
  u32 kv_head = head / (p.heads / p.kv_heads), q0 = tile * BQ;
  u32 q_stride = p.heads * p.dim, k_stride = p.kv_heads * p.dim, visible = p.kv_len - p.q_len;
  u64 q_first = ((u64)batch * p.q_len + q0) * q_stride + head * p.dim;
  u64 k_first = (u64)batch * p.kv_len * k_stride + kv_head * p.dim;
  u32 by_k = way(p.k, p.dim, p.type), by_v = way(p.v, p.dim, p.type);
  u32 keys = p.causal ? min(p.kv_len, q0 + BQ + visible) : p.kv_len;
  u32 lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * MT * 16, row0 = q0 + warp_row;
  // Keys that some, and that all rows of this warp see.
  u32 some = row0 >= p.q_len ? 0 : p.causal ? min(p.kv_len, row0 + MT * 16 + visible) : p.kv_len;
  u32 all = p.causal ? min(p.kv_len, row0 + visible + 1) : p.kv_len;
  float log2_scale = p.scale * LOG2E;

  load_rows<D, BQ, THREADS, F32>(qs, {p.q, q_first, q_stride, p.q_len - q0, p.dim, p.type, way(p.q, p.dim, p.type)});
  Tile<D, BK, THREADS, F32> fetched;
  auto rows = [&](const void* from, u32 k0, u32 by) {
    return Rows{from, k_first + (u64)k0 * k_stride, k_stride, p.kv_len - k0, p.dim, p.type, by};
  };
  fetched.start(ks, rows(p.k, 0, by_k));
  cp_async_commit();
  Sums<MT, D / 8> acc;
  acc.clear();
  float top[MT][2], sum[MT][2];  // maxima of S in units of log 2, and a thread's part of Σ exp(S − top)
#pragma unroll
  for (int i = 0; i < MT * 2; i++) top[i / 2][i % 2] = hidden(), sum[i / 2][i % 2] = 0.f;
#pragma unroll 1
  for (u32 k0 = 0; k0 < keys; k0 += BK) {
    fetched.finish(ks, rows(p.k, k0, by_k));
    cp_async_wait<0>();
    __syncthreads();
    fetched.start(vs, rows(p.v, k0, by_v));
    cp_async_commit();
    Sums<MT, NT> s;
    if (k0 < some) scores<D>(s, qs + warp_row * D * 2, ks);
    fetched.finish(vs, rows(p.v, k0, by_v));
    cp_async_wait<0>();
    __syncthreads();
    if (k0 + BK < keys) {
      fetched.start(ks, rows(p.k, k0 + BK, by_k));
      cp_async_commit();
    }
    if (k0 >= some) continue;
    bool masked = k0 + BK > all;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float high = top[i][h];
        u32 row = row0 + i * 16 + h * 8 + lane / 4, last = p.causal ? min(p.kv_len, row + visible + 1) : p.kv_len;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s.c[i][n][h * 2 + e];
            x *= log2_scale;
            if (masked && k0 + n * 8 + lane % 4 * 2 + e >= last) x = hidden();
            high = fmaxf(high, x);
          }
        high = quad_max(high);
        float old = exp2_fast(top[i][h] - high), part = 0.f;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float& x = s.c[i][n][h * 2 + e];
            x = exp2_fast(x - high);
            part += x;
          }
        top[i][h] = high;
        sum[i][h] = fmaf(sum[i][h], old, part);
#pragma unroll
        for (int n = 0; n < D / 8; n++) acc.c[i][n][h * 2] *= old, acc.c[i][n][h * 2 + 1] *= old;
      }
    weigh<D, PARTS>(acc, s, vs);
  }
  // The way out leads over q and k, which nobody reads any more.
  static_assert(WARPS * 16 * (D + 8) * 4 <= (BQ + BK) * D * 2, "v is in the way");
  float factor[MT][2];
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float total = quad_sum(sum[i][h]);
      factor[i][h] = 1.f / total;
      u32 row = row0 + i * 16 + h * 8 + lane / 4;
      if (lane % 4 == 0 && row < p.q_len)
        p.lse_out[((u64)batch * p.heads + head) * p.q_len + row] = fmaf(top[i][h], 0.6931471805599453f, logf(total));
    }
  write<D>(memory, p.out, acc, factor, q_first + (u64)warp_row * q_stride, q_stride, p.q_len - min(p.q_len, row0), p.dim, p.type, 0);
}

// Rows are queries and columns keys (dq), or the other way round (dk and dv).
// BC columns come to shared memory at a time, S and dS are computed for PART of them at a time.
template <int D, int WARPS, int MT, int BC, int PART, int PARTS, bool F32, bool KEYS> DEVICE void backward(const Attention& p) {
  constexpr int THREADS = WARPS * 32, BR = WARPS * MT * 16, NT = PART / 8;
  constexpr u32 TILE = BC * D * 2, STAGE = 2 * TILE + (KEYS ? BC * 8 : 0);  // with lse and delta of the columns
  extern __shared__ __align__(128) float memory[];
  u32 r1 = shared_address(memory), r2 = r1 + BR * D * 2, stages = r2 + BR * D * 2;
  u32 rows = KEYS ? p.kv_len : p.q_len, row_heads = KEYS ? p.kv_heads : p.heads;
  u32 cols = KEYS ? p.q_len : p.kv_len, col_heads = KEYS ? p.heads : p.kv_heads, group = p.heads / p.kv_heads;
  // The rows with the most columns start first: the last queries, the first keys.
  u32 tiles = (rows + BR - 1) / BR, tile = KEYS ? blockIdx.x % tiles : tiles - 1 - blockIdx.x % tiles;
  u32 head = blockIdx.x / tiles % row_heads, batch = blockIdx.x / tiles / row_heads;
  u32 row0 = tile * BR, row_stride = row_heads * p.dim, col_stride = col_heads * p.dim, visible = p.kv_len - p.q_len;
  u64 first = ((u64)batch * rows + row0) * row_stride + head * p.dim;
  const void *a1 = KEYS ? p.k : p.q, *a2 = KEYS ? p.v : p.gy, *b1 = KEYS ? p.q : p.k, *b2 = KEYS ? p.gy : p.v;
  u32 by1 = way(b1, p.dim, p.type), by2 = way(b2, p.dim, p.type);
  u32 lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * MT * 16, warp0 = row0 + warp_row;
  float log2_scale = p.scale * LOG2E;

  u32 start = 0, end = cols;
  if (p.causal && KEYS) start = row0 > visible ? (row0 - visible) / BC * BC : 0;
  if (p.causal && !KEYS) end = min(cols, row0 + BR + visible);
  Tile<D, BC, THREADS, F32> fetched1, fetched2;
  auto columns = [&](const void* from, u32 other, u32 col0, u32 by) {
    u32 col_head = KEYS ? head * group + other : head / group;
    return Rows{from, ((u64)batch * cols + col0) * col_stride + col_head * p.dim, col_stride, cols - col0, p.dim, p.type, by};
  };
  auto start_tiles = [&](u32 stage, u32 other, u32 col0) {
    u32 s = stages + stage * STAGE;
    fetched1.start(s, columns(b1, other, col0, by1));
    fetched2.start(s + TILE, columns(b2, other, col0, by2));
    if (KEYS && threadIdx.x < 2 * BC) {
      u32 col = threadIdx.x % BC, left = min(cols - col0, (u32)BC);
      const float* stats = (threadIdx.x < BC ? p.lse : p.delta) + ((u64)batch * p.heads + head * group + other) * p.q_len + col0;
      cp_async4(s + 2 * TILE + threadIdx.x * 4, stats + (col < left ? col : 0), col < left ? 4 : 0);
    }
    cp_async_commit();
  };
  load_rows<D, BR, THREADS, F32>(r1, {a1, first, row_stride, rows - row0, p.dim, p.type, way(a1, p.dim, p.type)});
  load_rows<D, BR, THREADS, F32>(r2, {a2, first, row_stride, rows - row0, p.dim, p.type, way(a2, p.dim, p.type)});
  if (start < end) start_tiles(0, 0, start);
  float lse[MT][2], delta[MT][2];  // of the rows
  if (!KEYS) {
#pragma unroll
    for (int i = 0; i < MT * 2; i++) {
      u32 row = warp0 + i * 8 + lane / 4;
      u64 at = ((u64)batch * p.heads + head) * p.q_len + row;
      lse[i / 2][i % 2] = row < p.q_len ? p.lse[at] * LOG2E : 0.f;
      delta[i / 2][i % 2] = row < p.q_len ? p.delta[at] : 0.f;
    }
  }

  Sums<MT, D / 8> acc1, acc2;
  acc1.clear();
  if (KEYS) acc2.clear();
  u32 stage = 0, other = 0, col0 = start;
#pragma unroll 1
  while (start < end && other < (KEYS ? group : 1)) {
    u32 next = col0 + BC, next_other = other;
    if (next >= end) next = start, next_other++;
    fetched1.finish(stages + stage * STAGE, columns(b1, other, col0, by1));
    fetched2.finish(stages + stage * STAGE + TILE, columns(b2, other, col0, by2));
    cp_async_wait<0>();
    __syncthreads();
    if (next_other < (KEYS ? group : 1)) start_tiles(stage ^ 1, next_other, next);
#pragma unroll 1
    for (u32 part = 0; part < BC; part += PART) {
      u32 c1 = stages + stage * STAGE + part * D * 2, c2 = c1 + TILE, stats = stages + stage * STAGE + 2 * TILE + part * 4;
      u32 part0 = col0 + part;
      // Whether some column is seen by a row of this warp, and whether all are by all.
      bool some = warp0 < rows && (!p.causal || (KEYS ? warp0 <= min(cols, part0 + PART) - 1 + visible : part0 < warp0 + MT * 16 + visible));
      bool all = warp0 + MT * 16 <= rows && part0 + PART <= cols &&
                 (!p.causal || (KEYS ? warp0 + MT * 16 <= part0 + visible + 1 : part0 + PART <= warp0 + visible + 1));
      if (some) {
        Sums<MT, NT> s, d;
        scores<D>(s, r1 + warp_row * D * 2, c1);
        scores<D>(d, r2 + warp_row * D * 2, c2);
#pragma unroll
        for (int n = 0; n < NT; n++) {
          float col_lse[2], col_delta[2];
          if (KEYS) {
            load_shared2(col_lse[0], col_lse[1], stats + (n * 8 + lane % 4 * 2) * 4);
            load_shared2(col_delta[0], col_delta[1], stats + (BC + n * 8 + lane % 4 * 2) * 4);
            col_lse[0] *= LOG2E, col_lse[1] *= LOG2E;
          }
#pragma unroll
          for (int i = 0; i < MT; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              float weight = exp2_fast(fmaf(s.c[i][n][e], log2_scale, -(KEYS ? col_lse[e % 2] : lse[i][e / 2])));
              s.c[i][n][e] = weight;
              d.c[i][n][e] = weight * (d.c[i][n][e] - (KEYS ? col_delta[e % 2] : delta[i][e / 2]));
            }
        }
        if (!all) {
#pragma unroll
          for (int e = 0; e < MT * NT * 4; e++) {
            u32 row = warp0 + e / (NT * 4) * 16 + e % 4 / 2 * 8 + lane / 4, col = part0 + e / 4 % NT * 8 + lane % 4 * 2 + e % 2;
            u32 query = KEYS ? col : row, key = KEYS ? row : col;
            bool seen = query < p.q_len && key < p.kv_len && (!p.causal || key <= query + visible);
            if (!seen) s.c[e / (NT * 4)][e / 4 % NT][e % 4] = d.c[e / (NT * 4)][e / 4 % NT][e % 4] = 0.f;
          }
        }
        if (KEYS) weigh<D, PARTS>(acc2, s, c2);
        weigh<D, PARTS>(acc1, d, c1);
      }
    }
    stage ^= 1, other = next_other, col0 = next;
  }
  cp_async_wait<0>();
  __syncthreads();
  float scale[MT][2], one[MT][2];
#pragma unroll
  for (int i = 0; i < MT * 2; i++) scale[i / 2][i % 2] = p.scale, one[i / 2][i % 2] = 1.f;
  void* out = KEYS ? p.dk : p.dq;
  u32 left = rows - min(rows, warp0);
  first += (u64)warp_row * row_stride;
  if (out) write<D>(memory, out, acc1, scale, first, row_stride, left, p.dim, p.type, KEYS ? p.add_dk : p.add_dq);
  if (KEYS && p.dv) write<D>(memory, p.dv, acc2, one, first, row_stride, left, p.dim, p.type, p.add_dv);
}

#define ATTENTION(name, D, WARPS, body)                                                                                 \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 8 / WARPS) attention_tc_##name##_##D(const __grid_constant__ Attention p) { \
    body(p);                                                                                                           \
  }
