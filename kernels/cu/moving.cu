#include "common.cuh"
#include "storage.cuh"

// Elements that find their way by index arithmetic, one a thread.
//   floor of permute and gather: an element read, an element written; an index a row
//   permute writes whole sectors, but reads whole ones only where x's last dimension stays the last: else every element of
//   a warp is in a sector of its own, 32 bytes for 4 (2), which neighbouring warps find in L1 or L2 if they come soon enough
//   gather meets the floor; its index is a sector a warp
//   scatter_add reads x once and reads and writes a row of the table for each index; each looks at up to count ids, from L2:
//   count² words in all, 268 MB at 8192 tokens
//   ptxsim counts exactly these sectors (tests/traffic.rs asserts it)
//   permute: 256 threads, 26 registers: 8 blocks on 9.0, 6 on 8.6
//   gather: 256 threads, 20 registers: 8 blocks on 9.0, 6 on 8.6
//   scatter_add: 256 threads, 38 registers, 32 bytes of shared memory: 6 blocks on 9.0, 6 on 8.6

struct Order {
  // Of y, the last dimension first: its size, and how far apart its elements are in x.
  u64 size[6], step[6];
};

// Dimension i of y is dimension perm[i] of x.
KERNEL(256)
permute(void *y, const void *x, u64 len, u32 y_type, u32 x_type, u32 add, u32 rank, const Order order) {
  u64 at = thread_index();
  if (at >= len) return;
  u64 rest = at, from = 0;
#pragma unroll
  for (u32 d = 0; d < 6; d++) {
    if (d < rank) {
      from += rest % order.size[d] * order.step[d];
      rest /= order.size[d];
    }
  }
  if (x_type == U32)
    ((u32 *)y)[at] = ((const u32 *)x)[from];
  else
    store(y, y_type, at, load(x, x_type, from), add);
}

// y[i, j] (+)= table[ids[i]·row_step + j·col_step]; an id beyond the table gives NaN, since nothing can be reported
// without waiting.
KERNEL(256)
gather(void *y, const void *table, const u32 *ids, u64 len, u64 width, u64 rows, u64 row_step, u64 col_step, u32 y_type,
       u32 x_type, u32 add) {
  u64 at = thread_index();
  if (at >= len) return;
  u32 id = ids[at / width];
  float v = __int_as_float(0x7fc00000);
  if (id < rows) v = load(table, x_type, id * row_step + at % width * col_step);
  store(y, y_type, at, v, add);
}

// table[ids[i]·row_step + j·col_step] += x[i, j] in ascending i, without atomics. One block per i; it works only if no
// earlier index is the same, and then adds the rows of all equal ones: every sum has one owner and one order.
KERNEL(256)
scatter_add(float *table, const u32 *ids, const void *x, u64 count, u64 width, u64 rows, u64 row_step, u64 col_step,
            u32 x_type) {
  __shared__ u32 equal[8];
  u64 i = blockIdx.x;
  u32 id = ids[i];
  u32 warp = threadIdx.x / 32;
  int seen = id >= rows;
  for (u64 j = threadIdx.x; j < i && !seen; j += 256) seen = ids[j] == id;
  if (__syncthreads_or(seen)) return;
  for (u64 base = i; base < count; base += 256) {
    u64 mine = base + threadIdx.x;
    u32 mask = __ballot_sync(~0u, mine < count && ids[mine] == id);
    if (threadIdx.x % 32 == 0) equal[warp] = mask;
    __syncthreads();
#pragma unroll 1
    for (u32 w = 0; w < 8; w++) {
      for (u32 bits = equal[w]; bits; bits &= bits - 1) {
        u64 j = base + w * 32 + __ffs(bits) - 1;
        for (u64 column = threadIdx.x; column < width; column += 256)
          table[id * row_step + column * col_step] += load(x, x_type, j * width + column);
      }
    }
    __syncthreads();
  }
}
