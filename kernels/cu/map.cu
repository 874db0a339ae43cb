#include "common.cuh"
#include "storage.cuh"
#include "functions.cuh"

// y[i] (+)= f(x[i]), any float storage on both sides; four elements a thread. The numbers are those of the enum Map.
//   floor: x read, y written, once more read where it is added to; ptxsim counts exactly these sectors (tests/traffic.rs
//   asserts it)
//   map: 256 threads, 24 registers: 8 blocks on 9.0, 6 on 8.6
DEVICE float apply(u32 op, float v, float c, float d) {
  switch (op) {
    case 0: return v;
    case 1: return fmaf(c, v, d);
    case 2: return expf(v);
    case 3: return logf(v);
    case 4: return sqrtf(v);
    case 5: return 1.0f / v;
    case 6: return v * v;
    case 7: return tanhf(v);
    case 8: return v > c ? c : v;  // NaN stays
    case 9: return v < c ? c : v;
    case 10: return v < 0.0f ? 0.0f : v;
    case 11: return silu(v);
    case 12: return gelu_erf(v);
    default: return gelu_tanh(v);
  }
}

KERNEL(256) map(void *y, const void *x, u64 len, u32 y_type, u32 x_type, u32 add, u32 op, float c, float d) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float v[4];
  load4(v, x, x_type, first, n, aligned4(x, x_type));
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = apply(op, v[i], c, d);
  store4(y, y_type, first, v, n, aligned4(y, y_type), add);
}
