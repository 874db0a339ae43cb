// Attention with grouped heads, forward and backward, in f32 on the FMA units (Dao et al. 2022, FlashAttention; the
// backward formulas are its algorithm 4). Operands and results are f32 in memory; heads of more than 128 elements may be
// bf16, widened when they are read and rounded once when they are written. delta is attention_delta.cu's.
//
//   forward:  S = s q kᵀ;  y = softmax(S) v;  lse = log Σ exp S, by one pass over the keys with a running maximum
//   backward: P = exp(S − lse);  dS = P ⊙ (gy vᵀ − delta), delta = rowsum(gy ⊙ y);
//             dv = Pᵀ gy;  dk = s dSᵀ q   (a block of keys runs over the heads of its group and their queries)
//             dq = s dS k                 (a block of queries runs over the keys)
// Each result has one writer that adds in a fixed order: no atomics, the same bits on every run. S is computed twice in
// backward for that: 14 instead of 10 · queries · keys · dim FLOP; forward 4; half of it with a causal mask, whose hidden
// tiles are skipped.
//
// A block has 256 threads: 16 row groups x 16 column groups. The 16 lanes of half a warp own the same rows of S, of P and
// of the result, so that maxima and sums are shuffles, and P goes through shared memory without a block barrier.
//   forward:  dim ≤ 64: 64 x 64 tiles; ≤ 128: 64 x 64; ≤ 256: 32 x 32     backward: 64 x 64; 32 x 32; 16 x 16
// Rows of tiles are 4 floats longer than dim: lanes that read 16 bytes of neighbouring rows meet in no bank.
//   floor: q, y once; k, v once for each tile of queries (from L2 after the first)
//   ptxsim counts no bank conflict in any of them (tests/attention.rs)
//   attention_forward_64: 256 threads, 110 registers, 51 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   attention_forward_128: 256 threads, 124 registers, 83 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   attention_forward_256: 256 threads, 96 registers, 70 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   attention_dq_64, attention_dkv_64: 256 threads, 128 registers, 85 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   attention_dq_128, attention_dkv_128: 256 threads, 96 registers, 71 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
//   attention_dq_256, attention_dkv_256: 256 threads, 122 registers, 66 KiB of shared memory: 2 blocks on 9.0, 1 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"

constexpr int THREADS = 256;

// Smaller heads that are bf16 go to tensor cores, whatever the precision.
template <int D> DEVICE u32 type_of(const Attention& p) { return D > 128 ? p.type : (u32)TYPE_F32; }

DEVICE float exponential(float x) { return exp2f(x * LOG2E); }

// ROWS rows of dim elements to shared memory; rows from `left` on are zeros.
template <int D, int ROWS>
DEVICE void load_tile(float* s, const void* from, u64 first, u32 stride, u32 left, u32 dim, u32 type, bool wide) {
#pragma unroll 2
  for (u32 id = threadIdx.x; id < ROWS * D / 4; id += THREADS) {
    u32 row = id / (D / 4), c = id % (D / 4) * 4;
    if (c >= dim) continue;
    float v[4];
    load4(v, from, first + (u64)row * stride + c, row < left ? (int)min(dim - c, 4u) : 0, type, wide);
    store_shared4(&s[row * (D + 4) + c], v[0], v[1], v[2], v[3]);
  }
}

// acc[i][j] += Σ_d a[row i][d] · b[column j][d]; rows of a thread are neighbours, columns are 16 apart.
template <int D, int NR, int NC> DEVICE void scores(float (&acc)[NR][NC], const float* a, const float* b, u32 dim) {
  u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  a += ty * NR * (D + 4);
  b += tx * (D + 4);
#pragma unroll 2
  for (u32 d = 0; d < dim; d += 4) {
    float4 x[NR];
#pragma unroll
    for (int i = 0; i < NR; i++) x[i] = load_shared4(&a[i * (D + 4) + d]);
#pragma unroll
    for (int j = 0; j < NC; j++) {
      float4 y = load_shared4(&b[j * 16 * (D + 4) + d]);
#pragma unroll
      for (int i = 0; i < NR; i++) {
        acc[i][j] = fmaf(x[i].x, y.x, acc[i][j]);
        acc[i][j] = fmaf(x[i].y, y.y, acc[i][j]);
        acc[i][j] = fmaf(x[i].z, y.z, acc[i][j]);
        acc[i][j] = fmaf(x[i].w, y.w, acc[i][j]);
      }
    }
  }
}

// acc[i][·] += Σ_j p[row i][j] · b[j][·], through the part of shared memory that this half of the warp owns. Columns of a
// thread: groups of four, 64 apart.
template <int D, int NR, int NC>
DEVICE void weigh(float (&acc)[NR][D / 16], const float (&value)[NR][NC], float* p, const float* b) {
  // Rows of P so far apart that the two halves of a warp store 16 banks apart.
  constexpr int COLS = NC * 16, P = NR == 4 ? COLS + 4 : NR == 2 ? COLS + 8 : COLS;
  u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  p += ty * NR * P;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < NR; i++)
#pragma unroll
    for (int j = 0; j < NC; j++) p[i * P + tx + j * 16] = value[i][j];
  __syncwarp();
#pragma unroll 1
  for (int j = 0; j < COLS; j += 4) {
    float w[NR][4];
#pragma unroll
    for (int i = 0; i < NR; i++) {
      float4 x = load_shared4(&p[i * P + j]);
      w[i][0] = x.x, w[i][1] = x.y, w[i][2] = x.z, w[i][3] = x.w;
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int g = 0; g < D / 64; g++) {
        float4 y = load_shared4(&b[(j + e) * (D + 4) + g * 64 + tx * 4]);
#pragma unroll
        for (int i = 0; i < NR; i++) {
          acc[i][g * 4] = fmaf(w[i][e], y.x, acc[i][g * 4]);
          acc[i][g * 4 + 1] = fmaf(w[i][e], y.y, acc[i][g * 4 + 1]);
          acc[i][g * 4 + 2] = fmaf(w[i][e], y.z, acc[i][g * 4 + 2]);
          acc[i][g * 4 + 3] = fmaf(w[i][e], y.w, acc[i][g * 4 + 3]);
        }
      }
  }
}

// Writes factor · acc to rows of [·, heads, dim].
template <int D, int NR>
DEVICE void write(void* out, const float (&acc)[NR][D / 16], const float (&factor)[NR], u64 first, u32 stride, u32 left,
                  u32 dim, u32 type, bool wide, u32 add) {
  u32 row = threadIdx.x / 16 * NR, tx = threadIdx.x % 16;
#pragma unroll
  for (int i = 0; i < NR; i++)
#pragma unroll
    for (int g = 0; g < D / 64; g++) {
      u32 c = g * 64 + tx * 4;
      float v[4];
#pragma unroll
      for (int e = 0; e < 4; e++) v[e] = acc[i][g * 4 + e] * factor[i];
      if (row + i < left && c < dim) store4(out, first + (u64)(row + i) * stride + c, v, (int)min(dim - c, 4u), type, wide, add);
    }
}

DEVICE float half_warp_max(float v) {
#pragma unroll
  for (int d = 8; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}
DEVICE float half_warp_sum(float v) {
#pragma unroll
  for (int d = 8; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

template <int D, int BQ, int BK> DEVICE void forward(const Attention& p) {
  constexpr int NR = BQ / 16, NC = BK / 16;
  u32 type = type_of<D>(p);
  extern __shared__ __align__(16) float memory[];
  float *qs = memory, *kv = qs + BQ * (D + 4), *ps = kv + BK * (D + 4);
  // The last queries have the most keys: they start first.
  u32 tiles = (p.q_len + BQ - 1) / BQ, tile = tiles - 1 - blockIdx.x % tiles;
  u32 head = blockIdx.x / tiles % p.heads, batch = blockIdx.x / tiles / p.heads;
  u32 kv_head = head / (p.heads / p.kv_heads), q0 = tile * BQ;
  u32 q_stride = p.heads * p.dim, k_stride = p.kv_heads * p.dim, visible = p.kv_len - p.q_len;
  u64 q_first = ((u64)batch * p.q_len + q0) * q_stride + head * p.dim;
  u64 k_first = (u64)batch * p.kv_len * k_stride + kv_head * p.dim;
  bool wide_q = rows_of_four(p.q, p.dim, type), wide_k = rows_of_four(p.k, p.dim, type);
  bool wide_v = rows_of_four(p.v, p.dim, type), wide_y = rows_of_four(p.out, p.dim, type);
  u32 keys = p.causal ? min(p.kv_len, q0 + BQ + visible) : p.kv_len;
  u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;

  load_tile<D, BQ>(qs, p.q, q_first, q_stride, p.q_len - q0, p.dim, type, wide_q);
  float acc[NR][D / 16] = {}, top[NR], sum[NR];
#pragma unroll
  for (int i = 0; i < NR; i++) top[i] = hidden(), sum[i] = 0.f;
#pragma unroll 1
  for (u32 k0 = 0; k0 < keys; k0 += BK) {
    load_tile<D, BK>(kv, p.k, k_first + (u64)k0 * k_stride, k_stride, p.kv_len - k0, p.dim, type, wide_k);
    __syncthreads();
    float s[NR][NC] = {};
    scores<D>(s, qs, kv, p.dim);
    __syncthreads();
    load_tile<D, BK>(kv, p.v, k_first + (u64)k0 * k_stride, k_stride, p.kv_len - k0, p.dim, type, wide_v);
#pragma unroll
    for (int i = 0; i < NR; i++) {
      u32 last = p.causal ? min(p.kv_len, q0 + ty * NR + i + visible + 1) : p.kv_len;
      float high = top[i];
#pragma unroll
      for (int j = 0; j < NC; j++) {
        s[i][j] = k0 + tx + j * 16 < last ? s[i][j] * p.scale : hidden();
        high = fmaxf(high, s[i][j]);
      }
      high = half_warp_max(high);
      float old = exponential(top[i] - high), part = 0.f;
#pragma unroll
      for (int j = 0; j < NC; j++) {
        s[i][j] = exponential(s[i][j] - high);
        part += s[i][j];
      }
      top[i] = high;
      sum[i] = fmaf(sum[i], old, half_warp_sum(part));
#pragma unroll
      for (int c = 0; c < D / 16; c++) acc[i][c] *= old;
    }
    __syncthreads();
    weigh<D>(acc, s, ps, kv);
    __syncthreads();
  }
  float factor[NR];
#pragma unroll
  for (int i = 0; i < NR; i++) {
    factor[i] = 1.f / sum[i];
    u32 row = q0 + ty * NR + i;
    if (tx == 0 && row < p.q_len) p.lse_out[((u64)batch * p.heads + head) * p.q_len + row] = top[i] + logf(sum[i]);
  }
  write<D>(p.out, acc, factor, q_first, q_stride, p.q_len - q0, p.dim, type, wide_y, 0);
}

// Rows are queries and columns keys (dq), or the other way round (dk and dv).
template <int D, int B, bool KEYS> DEVICE void backward(const Attention& p) {
  constexpr int N = B / 16, ROW = D + 4;
  u32 type = type_of<D>(p);
  extern __shared__ __align__(16) float memory[];
  float *r1 = memory, *r2 = r1 + B * ROW, *c1 = r2 + B * ROW, *c2 = c1 + B * ROW, *ps = c2 + B * ROW;
  u32 rows = KEYS ? p.kv_len : p.q_len, row_heads = KEYS ? p.kv_heads : p.heads;
  u32 cols = KEYS ? p.q_len : p.kv_len, col_heads = KEYS ? p.heads : p.kv_heads, group = p.heads / p.kv_heads;
  // The rows with the most columns start first: the last queries, the first keys.
  u32 tiles = (rows + B - 1) / B, tile = KEYS ? blockIdx.x % tiles : tiles - 1 - blockIdx.x % tiles;
  u32 head = blockIdx.x / tiles % row_heads, batch = blockIdx.x / tiles / row_heads;
  u32 row0 = tile * B, row_stride = row_heads * p.dim, col_stride = col_heads * p.dim, visible = p.kv_len - p.q_len;
  u64 first = ((u64)batch * rows + row0) * row_stride + head * p.dim;
  const void *a1 = KEYS ? p.k : p.q, *a2 = KEYS ? p.v : p.gy, *b1 = KEYS ? p.q : p.k, *b2 = KEYS ? p.gy : p.v;
  bool wide_a1 = rows_of_four(a1, p.dim, type), wide_a2 = rows_of_four(a2, p.dim, type);
  bool wide_b1 = rows_of_four(b1, p.dim, type), wide_b2 = rows_of_four(b2, p.dim, type);
  u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;

  load_tile<D, B>(r1, a1, first, row_stride, rows - row0, p.dim, type, wide_a1);
  load_tile<D, B>(r2, a2, first, row_stride, rows - row0, p.dim, type, wide_a2);
  float acc1[N][D / 16] = {}, acc2[N][D / 16] = {};
  u32 start = 0, end = cols;
  if (p.causal && KEYS) start = row0 > visible ? (row0 - visible) / B * B : 0;
  if (p.causal && !KEYS) end = min(cols, row0 + B + visible);
#pragma unroll 1
  for (u32 other = 0; other < (KEYS ? group : 1); other++) {
    u32 col_head = KEYS ? head * group + other : head / group;
    u64 stats = ((u64)batch * p.heads + (KEYS ? col_head : head)) * p.q_len;
#pragma unroll 1
    for (u32 col0 = start; col0 < end; col0 += B) {
      u64 from = ((u64)batch * cols + col0) * col_stride + col_head * p.dim;
      __syncthreads();
      load_tile<D, B>(c1, b1, from, col_stride, cols - col0, p.dim, type, wide_b1);
      load_tile<D, B>(c2, b2, from, col_stride, cols - col0, p.dim, type, wide_b2);
      __syncthreads();
      float s[N][N] = {}, d[N][N] = {};
      scores<D>(s, r1, c1, p.dim);
      scores<D>(d, r2, c2, p.dim);
#pragma unroll
      for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < N; j++) {
          u32 row = row0 + ty * N + i, col = col0 + tx + j * 16, query = KEYS ? col : row, key = KEYS ? row : col;
          bool seen = query < p.q_len && key < p.kv_len && (!p.causal || key <= query + visible);
          float weight = 0.f, slope = 0.f;
          if (seen) {
            weight = exponential(fmaf(s[i][j], p.scale, -p.lse[stats + query]));
            slope = weight * (d[i][j] - p.delta[stats + query]);
          }
          s[i][j] = weight, d[i][j] = slope;
        }
      if (KEYS) weigh<D>(acc2, s, ps, c2);
      weigh<D>(acc1, d, ps, c1);
    }
  }
  float scale[N], one[N];
#pragma unroll
  for (int i = 0; i < N; i++) scale[i] = p.scale, one[i] = 1.f;
  void* out = KEYS ? p.dk : p.dq;
  if (out)
    write<D>(out, acc1, scale, first, row_stride, rows - row0, p.dim, type, rows_of_four(out, p.dim, type),
             KEYS ? p.add_dk : p.add_dq);
  if (KEYS && p.dv)
    write<D>(p.dv, acc2, one, first, row_stride, rows - row0, p.dim, type, rows_of_four(p.dv, p.dim, type), p.add_dv);
}

#define ATTENTION(name, D, body)                                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_##name##_##D(const __grid_constant__ Attention p) { \
    body(p);                                                                                                         \
  }
ATTENTION(forward, 64, (forward<64, 64, 64>))
ATTENTION(forward, 128, (forward<128, 64, 64>))
ATTENTION(forward, 256, (forward<256, 32, 32>))
ATTENTION(dq, 64, (backward<64, 64, false>))
ATTENTION(dq, 128, (backward<128, 32, false>))
ATTENTION(dq, 256, (backward<256, 16, false>))
ATTENTION(dkv, 64, (backward<64, 64, true>))
ATTENTION(dkv, 128, (backward<128, 32, true>))
ATTENTION(dkv, 256, (backward<256, 16, true>))
