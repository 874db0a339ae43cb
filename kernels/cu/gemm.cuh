// What the kernels for matrix products have in common: their parameters, the order of tiles and the way out.
// Needs common.cuh, philox.cuh and operand.cuh before it.
#pragma once

struct Gemm {
  const void *a, *b, *bias, *a2, *b2;
  const float* scalars;  // for the step; null: no dropout
  void* c;
  u32 m, n, k, k2;
  float alpha, s;
  u32 ta, tb, tc, tbias, ta2, tb2;  // element types
  u32 add;
  Dropout drop;  // of the tail; element index = row · n + column
};

// Blocks next to each other share rows of a: eight row tiles go down before the next column tile.
constexpr u32 GROUP = 8;

DEVICE void place(u32 tiles_m, u32 tiles_n, u32 at, u32& tile_m, u32& tile_n) {
  u32 per = GROUP * tiles_n, first = at / per * GROUP, high = min(GROUP, tiles_m - first), in = at % per;
  tile_m = first + in % high;
  tile_n = in / high;
}

// c[row,col …] (+)= alpha · v + bias for four neighbours.
DEVICE void write4(const Gemm& g, void* c, u32 row, u32 col, const float4& sum, bool wide) {
  if (row >= g.m || col >= g.n) return;
  int valid = (int)min(g.n - col, 4u);
  float bias[4] = {0.f, 0.f, 0.f, 0.f}, v[4] = {sum.x, sum.y, sum.z, sum.w};
  if (g.bias) load4(bias, g.bias, col, valid, g.tbias, rows_of_four(g.bias, 0, g.tbias));
#pragma unroll
  for (int e = 0; e < 4; e++) v[e] = fmaf(g.alpha, v[e], bias[e]);
  store4(c, (u64)row * g.n + col, v, valid, g.tc, wide, g.add);
}
