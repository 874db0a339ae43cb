// y = bf16(s · x) for up to three matrices at once: operands for wgmma, whose rows TMA reads from multiples of 16 bytes.
// What is bf16 in memory and lies so already is not copied. Rows of y lie `pitch` apart, a multiple of 8; what is beyond the columns of x becomes 0.
//   on paper: every element read once and written once, in whole sectors where rows of x are; ptxsim counts exactly these
//   (tests/hopper.rs asserts it)
//   bf16_rows: 256 threads, 19 registers: 8 blocks on 9.0, 6 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"

struct Rows {
  const void* x;  // [rows, cols]
  u16* y;         // [rows, pitch]
  u32 rows, cols, pitch, blocks;
  u32 type;
  float s;
};
struct Jobs {
  Rows job[3];
};

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) bf16_rows(const __grid_constant__ Jobs p) {
  u32 block = blockIdx.x, which = 0;
  if (block >= p.job[0].blocks) block -= p.job[0].blocks, which = 1;
  if (which == 1 && block >= p.job[1].blocks) block -= p.job[1].blocks, which = 2;
  const Rows& job = p.job[which];
  // A thread has four elements of a row: 16 bytes in, if they are f32, and 8 out.
  u32 at = block * THREADS + threadIdx.x, per = job.pitch / 4, row = at / per, col = at % per * 4;
  if (row >= job.rows) return;
  float v[4];
  int valid = (int)min(job.cols - min(job.cols, col), 4u);
  load4(v, job.x, (u64)row * job.cols + col, valid, job.type, rows_of_four(job.x, job.cols, job.type));
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] *= job.s;
  store4(job.y, (u64)row * job.pitch + col, v, 4, TYPE_BF16, true, false);
}
