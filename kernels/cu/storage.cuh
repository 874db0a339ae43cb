// Operands whose storage type is known at run time only. A kernel that moves a few bytes per instruction loses nothing
// by a branch that all threads take alike, and the PTX is a ninth of what every pair of types would take. Needs
// common.cuh before it.
#pragma once

enum Storage : u32 { F32 = 0, BF16 = 1, F16 = 2, U32 = 3 };

DEVICE float load(const void *x, u32 type, u64 i) {
  if (type == F32) return ((const float *)x)[i];
  if (type == BF16) return to_f32(((const bf16 *)x)[i]);
  return to_f32(((const f16 *)x)[i]);
}

DEVICE void store(void *y, u32 type, u64 i, float v, u32 add) {
  if (type == F32)
    put((float *)y + i, v, add);
  else if (type == BF16)
    put((bf16 *)y + i, v, add);
  else
    put((f16 *)y + i, v, add);
}

// Whether four elements from here on may be moved at once.
DEVICE bool aligned4(const void *x, u32 type) { return ((u64)x & (type == F32 ? 15 : 7)) == 0; }

template <typename T> DEVICE void load4_as(float v[4], const T *x, u32 n, bool aligned);
template <> DEVICE void load4_as<float>(float v[4], const float *x, u32 n, bool aligned) {
  if (aligned && n == 4) {
    float4 q = *(const float4 *)x;
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
  } else {
#pragma unroll
    for (u32 i = 0; i < 4; i++) v[i] = i < n ? x[i] : 0.0f;
  }
}
template <typename T> DEVICE void load4_half(float v[4], const T *x, u32 n, bool aligned) {
  if (aligned && n == 4) {
    ushort4 q = *(const ushort4 *)x;
    v[0] = to_f32(T{q.x}), v[1] = to_f32(T{q.y}), v[2] = to_f32(T{q.z}), v[3] = to_f32(T{q.w});
  } else {
#pragma unroll
    for (u32 i = 0; i < 4; i++) v[i] = i < n ? to_f32(x[i]) : 0.0f;
  }
}
template <> DEVICE void load4_as<bf16>(float v[4], const bf16 *x, u32 n, bool aligned) { load4_half(v, x, n, aligned); }
template <> DEVICE void load4_as<f16>(float v[4], const f16 *x, u32 n, bool aligned) { load4_half(v, x, n, aligned); }

// Elements i … i + n - 1, n ≤ 4; zeros after them.
DEVICE void load4(float v[4], const void *x, u32 type, u64 i, u32 n, bool aligned) {
  if (type == F32)
    load4_as(v, (const float *)x + i, n, aligned);
  else if (type == BF16)
    load4_as(v, (const bf16 *)x + i, n, aligned);
  else
    load4_as(v, (const f16 *)x + i, n, aligned);
}

template <typename T> DEVICE void store4_half(T *y, const float v[4], u32 n, bool aligned, u32 add) {
  if (aligned && n == 4) {
    float w[4] = {v[0], v[1], v[2], v[3]};
    if (add) {
      float old[4];
      load4_half(old, y, 4, true);
#pragma unroll
      for (u32 i = 0; i < 4; i++) w[i] += old[i];
    }
    *(ushort4 *)y =
        make_ushort4(from_f32<T>(w[0]).bits, from_f32<T>(w[1]).bits, from_f32<T>(w[2]).bits, from_f32<T>(w[3]).bits);
  } else {
#pragma unroll
    for (u32 i = 0; i < 4; i++)
      if (i < n) put(y + i, v[i], add);
  }
}

// y (+)= v for elements i … i + n - 1.
DEVICE void store4(void *y, u32 type, u64 i, const float v[4], u32 n, bool aligned, u32 add) {
  if (type == F32) {
    float *to = (float *)y + i;
    if (aligned && n == 4) {
      float4 q = make_float4(v[0], v[1], v[2], v[3]);
      if (add) {
        float4 old = *(float4 *)to;
        q.x += old.x, q.y += old.y, q.z += old.z, q.w += old.w;
      }
      *(float4 *)to = q;
    } else {
#pragma unroll
      for (u32 i = 0; i < 4; i++)
        if (i < n) put(to + i, v[i], add);
    }
  } else if (type == BF16) {
    store4_half((bf16 *)y + i, v, n, aligned, add);
  } else {
    store4_half((f16 *)y + i, v, n, aligned, add);
  }
}

// The first of this thread's four elements, and how many of them there are.
DEVICE u64 first_of_four() { return thread_index() * 4; }
DEVICE u32 how_many(u64 first, u64 len) { return len - first < 4 ? (u32)(len - first) : 4; }
