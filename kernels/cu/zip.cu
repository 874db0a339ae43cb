#include "common.cuh"
#include "storage.cuh"
#include "functions.cuh"

// y[i] (+)= f(a[…], b[…]). The numbers are those of the enum Zip.
//   floor: a and b read, y written, once more read where it is added to; ptxsim counts exactly these sectors for operands
//   of one length (tests/traffic.rs asserts it); one that is broadcast is read again, from L1 or L2
//   zip_same: 256 threads, 32 registers: 8 blocks on 9.0, 6 on 8.6
//   zip: 256 threads, 26 registers: 8 blocks on 9.0, 6 on 8.6
DEVICE float apply(u32 op, float a, float b) {
  switch (op) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return a == b ? 1.0f : 0.0f;
    case 5: return a > 0.0f ? b : 0.0f;
    case 6: return silu_grad(a) * b;
    case 7: return gelu_erf_grad(a) * b;
    default: return gelu_tanh_grad(a) * b;
  }
}

// Operands of one length: four elements a thread.
KERNEL(256)
zip_same(void *y, const void *a, const void *b, u64 len, u32 y_type, u32 a_type, u32 b_type, u32 add, u32 op) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len);
  float u[4], v[4];
  load4(u, a, a_type, first, n, aligned4(a, a_type));
  load4(v, b, b_type, first, n, aligned4(b, b_type));
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = apply(op, u[i], v[i]);
  store4(y, y_type, first, u, n, aligned4(y, y_type), add);
}

// Dimensions merged by the host; the last one comes first, and one that an operand is broadcast over has step 0 there.
struct Dims {
  u64 size[6], a[6], b[6];
};

KERNEL(256)
zip(void *y, const void *a, const void *b, u64 len, u32 y_type, u32 a_type, u32 b_type, u32 add, u32 op, u32 rank,
    const Dims dims) {
  u64 at = thread_index();
  if (at >= len) return;
  u64 rest = at, i = 0, j = 0;
#pragma unroll
  for (u32 d = 0; d < 6; d++) {
    if (d < rank) {
      u64 k = rest % dims.size[d];
      rest /= dims.size[d];
      i += k * dims.a[d];
      j += k * dims.b[d];
    }
  }
  // Both are indices then; only Equal takes them.
  if (a_type == U32)
    store(y, y_type, at, ((const u32 *)a)[i] == ((const u32 *)b)[j] ? 1.0f : 0.0f, add);
  else
    store(y, y_type, at, apply(op, load(a, a_type, i), load(b, b_type, j)), add);
}
