// What the kernels for Hopper are made of: c[m,n] (+)= (a2 · b2) ⊙ mask + a · b (+ bias) with wgmma and TMA, all operands
// bf16, f32 sums, c f32 or bf16, rounded once. Needs common.cuh, philox.cuh, operand.cuh and gemm.cuh before it.
//
// A block of three warpgroups stays on its multiprocessor and takes tile after tile of 128 x 256. One thread of the first
// group fetches by TMA: 64 of k of a (16 KiB) and b (32 KiB) a stage, four stages; the low-rank part is nothing but one
// more step of k for each 64 ranks (TMA puts zeros beyond r), and comes first, so that the sums can be masked while they
// hold nothing else. The other two groups multiply, 64 x 256 each, wgmma m64n256k16, one group of four in flight while
// the next stage is waited for. Full and empty stages are told by mbarriers. Sums run over r, then k, ascending: the bits
// of a row depend neither on m nor on its place.
#pragma once

struct alignas(64) TensorMap {
  u64 words[16];
};
// The maps are of bf16, boxes of 64 columns with 128-byte swizzle. a [m,k] and a2 [m,k2]: boxes of 128 rows. b and b2 are
// [n,k], boxes of 256 rows; with TRANS [k,n], boxes of 64 rows, four of them side by side.
struct Product {
  TensorMap a, b, a2, b2;
  const void* bias;      // [n] or null
  void* c;
  const float* scalars;  // for the step; null: no mask. n is a multiple of 4 then
  u32 m, n, k, k2;
  u32 tbias, tc, add;  // add: with TRANS only
  Dropout drop;        // element index = row · n + column
};

constexpr int ROWS = 128, COLS = 256, DEPTH = 64, STAGES = 4;
constexpr u32 A_BYTES = ROWS * DEPTH * 2, STAGE = A_BYTES + COLS * DEPTH * 2, BOX = DEPTH * DEPTH * 2;

DEVICE void barrier_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }
DEVICE void barrier_expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEVICE void barrier_wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}
DEVICE void tma_load(u32 to, const TensorMap* map, u32 col, u32 row, u32 bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
               "l"(map), "r"(bar), "r"(col), "r"(row)
               : "memory");
}
// 128-byte swizzle, eight rows of 128 bytes are 1024 bytes. Rows of k: 16 of k are 32 bytes. TRANS: rows of 64 of n, the
// next 64 are a box further on; 16 of k are 16 rows.
DEVICE u64 descriptor(u32 at) { return (u64)(at >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
DEVICE u64 descriptor_trans(u32 at) { return (u64)(at >> 4 & 0x3fff) | (u64)(BOX >> 4) << 16 | 64ull << 32 | 1ull << 62; }

// c += a · b for 64 x 256 x 16. TRANS: b is stored with n next to each other instead of k.
template <int TRANS> DEVICE void wgmma(float (&c)[128], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, 1, 1, 1, 0, %130;"
      :
        "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),
        "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),
        "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),
        "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]),
        "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]),
        "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]),
        "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
        "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63]),
        "+f"(c[64]), "+f"(c[65]), "+f"(c[66]), "+f"(c[67]), "+f"(c[68]), "+f"(c[69]), "+f"(c[70]), "+f"(c[71]),
        "+f"(c[72]), "+f"(c[73]), "+f"(c[74]), "+f"(c[75]), "+f"(c[76]), "+f"(c[77]), "+f"(c[78]), "+f"(c[79]),
        "+f"(c[80]), "+f"(c[81]), "+f"(c[82]), "+f"(c[83]), "+f"(c[84]), "+f"(c[85]), "+f"(c[86]), "+f"(c[87]),
        "+f"(c[88]), "+f"(c[89]), "+f"(c[90]), "+f"(c[91]), "+f"(c[92]), "+f"(c[93]), "+f"(c[94]), "+f"(c[95]),
        "+f"(c[96]), "+f"(c[97]), "+f"(c[98]), "+f"(c[99]), "+f"(c[100]), "+f"(c[101]), "+f"(c[102]), "+f"(c[103]),
        "+f"(c[104]), "+f"(c[105]), "+f"(c[106]), "+f"(c[107]), "+f"(c[108]), "+f"(c[109]), "+f"(c[110]), "+f"(c[111]),
        "+f"(c[112]), "+f"(c[113]), "+f"(c[114]), "+f"(c[115]), "+f"(c[116]), "+f"(c[117]), "+f"(c[118]), "+f"(c[119]),
        "+f"(c[120]), "+f"(c[121]), "+f"(c[122]), "+f"(c[123]), "+f"(c[124]), "+f"(c[125]), "+f"(c[126]), "+f"(c[127])
      : "l"(a), "l"(b), "n"(TRANS));
}

// Two neighbours of a row as bf16.
DEVICE u32 pack_bf16(float lo, float hi) {
  u32 d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}
DEVICE u32 pick(const u32 (&v)[4], u32 i) { return i & 2 ? (i & 1 ? v[3] : v[2]) : (i & 1 ? v[1] : v[0]); }

// The sums of a thread: row (and row + 8), columns col + 8j and the next. ADD: they may be added to what is there.
template <bool ADD> DEVICE void write_sums(const Product& p, const float (&acc)[128], u32 row, u32 col) {
  u32 lane = threadIdx.x % 4;
  bool wide = p.n % 8 == 0 && ((u64)p.c & 15) == 0, add = ADD && p.add;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 y = row + half * 8;
#pragma unroll
    for (int g = 0; g < 8; g++) {
      // bf16: four lanes exchange four tiles, so that each has the eight columns of one, 16 bytes; and what is there already
      // the other way round.
      u32 words[4], there[4], column = col - lane * 2 + (g * 4 + lane) * 8;
      uint4* row16 = (uint4*)((u16*)p.c + (u64)y * p.n + column);
      bool packed = wide && p.tc == TYPE_BF16, inside = y < p.m && column < p.n;
      if (packed && add) {
        uint4 q = make_uint4(0, 0, 0, 0);
        if (inside) q = *row16;
        u32 own[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (u32 d = 0; d < 4; d++) there[d] = __shfl_xor_sync(~0u, pick(own, lane ^ d), d);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int j = g * 4 + i;
        u32 x = col + j * 8;
        float lo = acc[j * 4 + half * 2], hi = acc[j * 4 + half * 2 + 1];
        if (p.bias) {
          if (x < p.n) lo += load1(p.bias, x, p.tbias);
          if (x + 1 < p.n) hi += load1(p.bias, x + 1, p.tbias);
        }
        if (packed) {
          if (add) {
            u32 old = pick(there, lane ^ i);
            lo += __uint_as_float(old << 16), hi += __uint_as_float(old & 0xffff0000u);
          }
          words[i] = pack_bf16(lo, hi);
          continue;
        }
        if (y >= p.m) continue;
        u64 at = (u64)y * p.n + x;
        if (p.tc == TYPE_F32) {
          if (wide && x < p.n) {
            float2* to = (float2*)((float*)p.c + at);
            float2 old = add ? *to : make_float2(0.f, 0.f);
            *to = add ? make_float2(old.x + lo, old.y + hi) : make_float2(lo, hi);
          } else {
            if (x < p.n) put((float*)p.c + at, lo, add);
            if (x + 1 < p.n) put((float*)p.c + at + 1, hi, add);
          }
        } else {
          if (x < p.n) put((bf16*)p.c + at, lo, add);
          if (x + 1 < p.n) put((bf16*)p.c + at + 1, hi, add);
        }
      }
      if (packed) {
        u32 mine[4];
#pragma unroll
        for (u32 d = 0; d < 4; d++) mine[d] = __shfl_xor_sync(~0u, pick(words, lane ^ d), d);
        if (inside) *row16 = make_uint4(pick(mine, lane), pick(mine, lane ^ 1), pick(mine, lane ^ 2), pick(mine, lane ^ 3));
      }
    }
  }
}

// Keeps or drops the sums. Two lanes share four neighbours of a row, which are one Philox block: the even one draws for its
// upper row, the odd one for the lower. Kept ones are told by 32 bits for each 32 sums.
DEVICE void mask_sums(const Product& p, float (&acc)[128], u32 row, u32 col) {
  u32 step = (u32)p.scalars[0], odd = threadIdx.x & 1;
  u64 first = ((u64)(row + odd * 8) * p.n + col - odd * 2) / 4;
#pragma unroll
  for (int g = 0; g < 4; g++) {
    u32 kept = 0;
#pragma unroll 1
    for (int j = 0; j < 8; j++) {
      u32 w[4];
      dropout_words(w, p.drop, step, first + (g * 8 + j) * 2);
      u32 t = p.drop.threshold, low = (u32)(w[0] >= t) | (u32)(w[1] >= t) << 1, high = (u32)(w[2] >= t) | (u32)(w[3] >= t) << 1;
      u32 other = __shfl_xor_sync(~0u, odd ? low : high, 1);
      u32 four = odd ? other | high << 2 : low | other << 2;
      kept = kept >> 4 | four << 28;
    }
#pragma unroll
    for (int i = 0; i < 32; i++) acc[g * 32 + i] = kept >> i & 1 ? acc[g * 32 + i] * p.drop.keep_scale : 0.f;
  }
}

template <int TRANS> DEVICE void product(const Product& p) {
  extern __shared__ unsigned char memory[];
  __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
  u32 base = shared_address(memory) + 1023 & ~1023u, ready = shared_address(full), free = shared_address(empty);
  u32 group = threadIdx.x / 128, tiles_m = (p.m + ROWS - 1) / ROWS, tiles_n = (p.n + COLS - 1) / COLS;
  u32 low = (p.k2 + DEPTH - 1) / DEPTH, steps = low + (p.k + DEPTH - 1) / DEPTH, tiles = tiles_m * tiles_n;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      barrier_init(ready + i * 8, 1);
      barrier_init(free + i * 8, 8);  // a lane of each warp that multiplies
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  u32 at = 0;  // steps so far: stage at % STAGES, round at / STAGES
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x != 0) return;
#pragma unroll 1
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      u32 tile_m, tile_n;
      place(tiles_m, tiles_n, tile, tile_m, tile_n);
#pragma unroll 1
      for (u32 step = 0; step < steps; step++, at++) {
        u32 stage = at % STAGES, to = base + stage * STAGE, bar = ready + stage * 8;
        barrier_wait(free + stage * 8, at / STAGES & 1 ^ 1);
        barrier_expect(bar, STAGE);
        bool tail = step < low;
        const TensorMap* b = tail ? &p.b2 : &p.b;
        u32 k = (tail ? step : step - low) * DEPTH;
        tma_load(to, tail ? &p.a2 : &p.a, k, tile_m * ROWS, bar);
        if (TRANS) {
#pragma unroll
          for (u32 i = 0; i < COLS / DEPTH; i++) tma_load(to + A_BYTES + i * BOX, b, tile_n * COLS + i * DEPTH, k, bar);
        } else {
          tma_load(to + A_BYTES, b, k, tile_n * COLS, bar);
        }
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  u32 thread = threadIdx.x % 128;
#pragma unroll 1
  for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    u32 tile_m, tile_n;
    place(tiles_m, tiles_n, tile, tile_m, tile_n);
    u32 row = tile_m * ROWS + (group - 1) * 64 + thread / 32 * 16 + thread % 32 / 4, col = tile_n * COLS + thread % 4 * 2;
    float acc[128];
#pragma unroll
    for (int i = 0; i < 128; i++) acc[i] = 0.f;
    auto multiply = [&](u32 count) {
#pragma unroll 1
      for (u32 step = 0; step < count; step++, at++) {
        u32 stage = at % STAGES;
        barrier_wait(ready + stage * 8, at / STAGES & 1);
        u32 from = base + stage * STAGE;
        u64 a = descriptor(from + (group - 1) * 64 * 128);
        u64 b = TRANS ? descriptor_trans(from + A_BYTES) : descriptor(from + A_BYTES);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma<TRANS>(acc, a + k * 2, b + k * (TRANS ? 128 : 2));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // This warp is done with the step before; every warp says so for itself.
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (step > 0 && thread % 32 == 0) barrier_arrive(free + (at - 1) % STAGES * 8);
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (thread % 32 == 0) barrier_arrive(free + (at - 1) % STAGES * 8);
    };
    bool masked = TRANS && p.scalars;
    if (masked) {
      multiply(low);
      mask_sums(p, acc, row, col);
    }
    multiply(masked ? steps - low : steps);
    write_sums<TRANS>(p, acc, row, col);
  }
}
