#include "common.cuh"
#include "storage.cuh"

// x [outer, len, inner] → y [outer, parts, inner]: sum or maximum over pieces of `chunk` of the middle. The host makes a
// second pass over the parts if there is more than one; what is cut depends on sizes only.
//   floor: x read once, a number a result written; ptxsim counts exactly these sectors where rows are whole sectors
//   (tests/traffic.rs asserts it); the second pass moves 1/chunk of it again
//   reduce_rows: 256 threads, 32 registers, 32 bytes of shared memory: 8 blocks on 9.0, 6 on 8.6
//   reduce_short_rows: 256 threads, 24 registers: 8 blocks on 9.0, 6 on 8.6
//   reduce_columns: 256 threads, 40 registers: 6 blocks on 9.0, 6 on 8.6

DEVICE float combine(u32 maximum, float a, float b) { return maximum ? max_nan(a, b) : a + b; }
DEVICE float nothing(u32 maximum) { return maximum ? __int_as_float(0xff800000) : 0.0f; }

// inner = 1: one block per piece of a row; 256 strided parts, then the block's tree.
KERNEL(256)
reduce_rows(void *y, const void *x, u64 len, u64 chunk, u64 parts, u32 y_type, u32 x_type, u32 add, u32 maximum) {
  __shared__ float scratch[8];
  u64 row = blockIdx.x / parts, part = blockIdx.x % parts;
  u64 begin = part * chunk, end = begin + chunk < len ? begin + chunk : len;
  float v = nothing(maximum);
  for (u64 i = begin + threadIdx.x; i < end; i += 256) v = combine(maximum, v, load(x, x_type, row * len + i));
  v = maximum ? block_max<256>(v, scratch) : block_sum<256>(v, scratch);
  if (threadIdx.x == 0) store(y, y_type, blockIdx.x, v, add);
}

// Rows of at most 64: a warp each.
KERNEL(256)
reduce_short_rows(void *y, const void *x, u64 rows, u64 len, u32 y_type, u32 x_type, u32 add, u32 maximum) {
  u64 row = thread_index() / 32;
  if (row >= rows) return;  // whole warps
  float v = nothing(maximum);
  for (u64 i = threadIdx.x % 32; i < len; i += 32) v = combine(maximum, v, load(x, x_type, row * len + i));
  v = maximum ? warp_max(v) : warp_sum(v);
  if (threadIdx.x % 32 == 0) store(y, y_type, row, v, add);
}

// inner > 1: one thread per result, neighbours read neighbours.
KERNEL(256)
reduce_columns(void *y, const void *x, u64 results, u64 len, u64 inner, u64 chunk, u64 parts, u32 y_type, u32 x_type,
               u32 add, u32 maximum) {
  u64 i = thread_index();
  if (i >= results) return;
  u64 column = i % inner, part = i / inner % parts, outer = i / inner / parts;
  u64 begin = part * chunk, end = begin + chunk < len ? begin + chunk : len;
  float v = nothing(maximum);
  for (u64 l = begin; l < end; l++) v = combine(maximum, v, load(x, x_type, (outer * len + l) * inner + column));
  store(y, y_type, i, v, add);
}
