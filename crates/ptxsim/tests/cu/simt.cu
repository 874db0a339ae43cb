// Scalar code: math functions, integers of every width, local arrays, constants, calls, switches, structs.
#include <cstdint>
__constant__ float ctab[64];
__device__ float gacc[4] = {1.f, 2.f, 3.f, 4.f};
__device__ const float* gptr[2] = {gacc, gacc + 2};
__device__ __noinline__ float helper(float a, float* p, int n) { float s = a; for (int i = 0; i < n; i++) s += p[i] * a; return s; }
extern "C" __global__ void k_call(float* p, float* q, int n) { q[threadIdx.x] = helper(p[threadIdx.x], p, n) + (p[threadIdx.x] > 3.f ? helper(1.f, p, 2) : 0.f); }
extern "C" __global__ void k_const(float* p) { p[threadIdx.x] = ctab[threadIdx.x & 63] + gacc[threadIdx.x & 3] + gptr[1][0]; }
extern "C" __global__ void k_local(float* p, int n) {
  float a[32];
  for (int i = 0; i < 32; i++) a[i] = p[i];
  for (int i = 0; i < n; i++) a[(i * 7) & 31] += a[(i * 3 + n) & 31];
  float s = 0; for (int i = 0; i < 32; i++) s += a[i];
  p[32 + threadIdx.x] = s;
}
extern "C" __global__ void k_math(const float* p, float* q) {
  int t = threadIdx.x; float x = p[t]; float* o = q + t;
  o[0] = expf(x); o[32] = logf(x); o[64] = sinf(x); o[96] = cosf(x); o[128] = tanhf(x); o[160] = powf(x, 1.7f);
  o[192] = sqrtf(x); o[224] = 1.f / x; o[256] = rsqrtf(x); o[288] = fmodf(x, 0.3f); o[320] = log1pf(x); o[352] = expm1f(x);
  o[384] = cbrtf(x); o[416] = atan2f(x, 2.f); o[448] = floorf(x) + ceilf(x) + roundf(x) + truncf(x) + rintf(x);
  o[480] = asinf(x / 40000.f); o[512] = sinhf(x / 1000.f); o[544] = ldexpf(x, 3); o[576] = copysignf(x, -1.f);
  o[608] = erff(x); o[640] = tgammaf(x);
}
extern "C" __global__ void k_double(const double* p, double* q) {
  int t = threadIdx.x; double x = p[t]; double* o = q + t;
  o[0] = exp(x); o[32] = log(x); o[64] = sin(x); o[96] = sqrt(x); o[128] = 1. / x; o[160] = pow(x, 1.5); o[192] = tanh(x);
  o[224] = fma(x, x, 1.); o[256] = floor(x); o[288] = rsqrt(x); o[320] = fmod(x, .3); o[352] = cbrt(x); o[384] = cos(x * 1e6);
}
extern "C" __global__ void k_int(const uint32_t* p, const int* q, const uint64_t* r, const int64_t* s, uint64_t* o) {
  int t = threadIdx.x; uint32_t x = p[t]; int y = q[t]; uint64_t z = r[t]; int64_t w = s[t]; o += t;
  o[0] = (uint32_t)(y / 7); o[32] = (uint32_t)(y % 13); o[64] = (uint32_t)(y / (int)(x | 1)); o[96] = (uint32_t)(y % (int)(x | 1));
  o[128] = x / 9; o[160] = x % ((uint32_t)y | 1); o[192] = z / 10; o[224] = z % 7; o[256] = z * w; o[288] = z / (w | 1);
  o[320] = w / 10; o[352] = w % (y | 1); o[384] = __umul64hi(z, w); o[416] = __mul64hi(z, w); o[448] = z << (x & 63);
  o[480] = w >> (x & 63); o[512] = __funnelshift_l(x, y, x); o[544] = __byte_perm(x, y, x); o[576] = __brevll(z); o[608] = __ffsll(z);
  o[640] = __vadd4(x, y); o[672] = __vmaxs2(x, y); o[704] = __vabsdiffu4(x, y); o[736] = __rhadd(y, 5) ; o[768] = min(w, (int64_t)y);
}
extern "C" __global__ void k_int128(const uint64_t* r, uint64_t* o) {
  unsigned __int128 a = r[0]; a = a * r[1] + r[2]; a += ((unsigned __int128)r[3] << 64); a -= r[1]; a = a / (r[2] | 1);
  o[0] = (uint64_t)a; o[1] = (uint64_t)(a >> 64);
}
extern "C" __global__ void k_small(signed char* a, unsigned char* b, short* c, unsigned short* d, float* f) {
  int i = threadIdx.x;
  a[i] = a[i] * 3 + b[i]; b[i] = b[i] >> 1; c[i] = c[i] * c[i] / 3; d[i] += a[i]; f[i] = a[i] + b[i] * 2.f + c[i] + d[i];
}
extern "C" __global__ void k_switch(const int* p, int* q) {
  int x = p[threadIdx.x], r;
  switch (x) {
    case 0: r = p[1] * 3; break; case 1: r = p[2] + 5; break; case 2: r = p[4] ^ 77; break; case 3: r = __popc(p[7]); break;
    case 4: r = p[8] / 3; break; case 5: r = p[11] % 5; break; case 6: r = p[12] << 3; break; case 7: r = -p[13]; break; default: r = 1;
  }
  q[threadIdx.x] = r;
}
struct Big { float a[20]; int n; double d; };
extern "C" __global__ void k_struct(Big b, float* o, const __grid_constant__ Big c) { o[threadIdx.x] = b.a[threadIdx.x % 20] + b.n + (float)b.d + c.a[threadIdx.x % 19]; }
extern "C" __global__ void k_collatz(const uint32_t* p, uint32_t* q) { uint32_t x = p[threadIdx.x], n = 0; while (x != 1) { x = x & 1 ? 3 * x + 1 : x / 2; n++; if (n > 1000) break; } q[threadIdx.x] = n; }
extern "C" __global__ void k_generic(float* p, int n) {
  __shared__ float s[64]; float l[4]; float* q = n == 1 ? s : (n == 2 ? l : p);
  l[0] = 1; l[1] = 7; s[threadIdx.x] = 3; __syncthreads();
  if (n != 2 ) q[threadIdx.x] = 2.f; else q[2] = threadIdx.x;
  __syncthreads();
  p[threadIdx.x + 64] = n == 2 ? q[2] + q[0] : q[threadIdx.x];
}
