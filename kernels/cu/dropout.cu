#include "common.cuh"
#include "storage.cuh"
#include "philox.cuh"

// y (+)= x ⊙ mask, the mask drawn anew from (seed, stream, step, element): one Philox block, four elements, a thread.
//   floor: x read, y written, once more read where it is added to; beside it the step, a sector a warp, from L1 or L2
//   ptxsim counts exactly these sectors (tests/traffic.rs asserts it)
//   dropout: 256 threads, 28 registers: 8 blocks on 9.0, 6 on 8.6
KERNEL(256)
dropout(void *y, const void *x, const float *scalars, u64 len, u32 y_type, u32 x_type, u32 add, const Dropout site) {
  u64 first = first_of_four();
  if (first >= len) return;
  u32 n = how_many(first, len), words[4];
  float v[4];
  load4(v, x, x_type, first, n, aligned4(x, x_type));
  dropout_words(words, site, (u32)scalars[0], first / 4);
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = words[i] >= site.threshold ? v[i] * site.keep_scale : 0.0f;
  store4(y, y_type, first, v, n, aligned4(y, y_type), add);
}
