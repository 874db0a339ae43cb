// Strided copies and constants, an element a thread: neighbours read and write neighbours.
//   floor, in bytes from memory: an element read, an element written, one more read where it is added to; fill only writes
//   ptxsim counts exactly these sectors where rows are whole sectors (tests/traffic.rs asserts it)
//   copy_f32, copy_bf16, copy_f16: 256 threads, 18 registers: 8 blocks on 9.0, 6 on 8.6
//   fill_32, fill_16: 256 threads, 10 registers: 8 blocks on 9.0, 6 on 8.6
#include "common.cuh"

// dst[r·dst_stride + c] (+)= src[r·src_stride + c], one thread per element; src_stride 0 repeats one row.
// Bytes are moved unless they are added, so u32 and f32 share a kernel.
template <typename T>
DEVICE void copy_block(T *dst, const T *src, u64 len, u64 cols, u64 src_stride, u64 dst_stride, u32 add) {
  u64 i = thread_index();
  if (i >= len) return;
  u64 row = i / cols, col = i % cols;
  T *to = dst + row * dst_stride + col;
  T from = src[row * src_stride + col];
  if (add)
    put(to, to_f32(from), 1);
  else
    *to = from;
}

KERNEL(256) copy_f32(float *dst, const float *src, u64 len, u64 cols, u64 src_stride, u64 dst_stride, u32 add) {
  copy_block(dst, src, len, cols, src_stride, dst_stride, add);
}
KERNEL(256) copy_bf16(bf16 *dst, const bf16 *src, u64 len, u64 cols, u64 src_stride, u64 dst_stride, u32 add) {
  copy_block(dst, src, len, cols, src_stride, dst_stride, add);
}
KERNEL(256) copy_f16(f16 *dst, const f16 *src, u64 len, u64 cols, u64 src_stride, u64 dst_stride, u32 add) {
  copy_block(dst, src, len, cols, src_stride, dst_stride, add);
}

// y[i] = bits, for 4-byte and 2-byte elements.
KERNEL(256) fill_32(u32 *y, u64 len, u32 bits) {
  u64 i = thread_index();
  if (i < len) y[i] = bits;
}
KERNEL(256) fill_16(u16 *y, u64 len, u32 bits) {
  u64 i = thread_index();
  if (i < len) y[i] = (u16)bits;
}
