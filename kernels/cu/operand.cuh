// Operands whose element type is a number known at run time: loads and stores of four elements with conversion to and
// from f32, and dropout masks of four elements. Needs common.cuh and philox.cuh before it.
#pragma once

enum Type : u32 { TYPE_F32 = 0, TYPE_BF16 = 1, TYPE_F16 = 2 };

DEVICE u32 type_size(u32 type) { return type == TYPE_F32 ? 4u : 2u; }
DEVICE float from_16(u32 bits, u32 type) { return type == TYPE_BF16 ? to_f32(bf16{(u16)bits}) : to_f32(f16{(u16)bits}); }
DEVICE u16 to_16(float f, u32 type) { return type == TYPE_BF16 ? from_f32<bf16>(f).bits : from_f32<f16>(f).bits; }

DEVICE const char* element(const void* p, u64 index, u32 type) { return (const char*)p + index * type_size(type); }
DEVICE float load1(const void* p, u64 index, u32 type) {
  const char* at = element(p, index, type);
  return type == TYPE_F32 ? *(const float*)at : from_16(*(const u16*)at, type);
}

// Whether rows of `stride` elements allow loads of four elements: 16 bytes of f32, 8 bytes of the others.
DEVICE bool rows_of_four(const void* p, u64 stride, u32 type) {
  return ((u64)p & (4 * type_size(type) - 1)) == 0 && (stride & 3) == 0;
}

// Elements index .. index+4 as f32; those from `valid` on are 0 and not read. `wide`: rows_of_four holds here.
DEVICE void load4(float (&v)[4], const void* p, u64 index, int valid, u32 type, bool wide) {
  const char* at = element(p, index, type);
  if (wide && valid >= 4) {
    if (type == TYPE_F32) {
      float4 q = *(const float4*)at;
      v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
      uint2 q = *(const uint2*)at;
      u32 w[2] = {q.x, q.y};
#pragma unroll
      for (int j = 0; j < 2; j++) {
        v[2 * j] = from_16(w[j] & 0xffff, type);
        v[2 * j + 1] = from_16(w[j] >> 16, type);
      }
    }
  } else {
    // Tails and rows that are not aligned: one element a turn, to keep the code short.
    u32 size = type_size(type);
#pragma unroll 1
    for (int j = 0; j < 4; j++, at += size) {
      float x = 0.f;
      if (j < valid) x = type == TYPE_F32 ? *(const float*)at : from_16(*(const u16*)at, type);
      v[0] = v[1], v[1] = v[2], v[2] = v[3], v[3] = x;
    }
  }
}

// c[index .. index+valid] = v, or += v.
DEVICE void store4(void* c, u64 index, const float (&v)[4], int valid, u32 type, bool wide, bool add) {
  char* at = (char*)c + index * type_size(type);
  if (wide && valid >= 4) {
    if (type == TYPE_F32) {
      float4* q = (float4*)at;
      float4 r = make_float4(v[0], v[1], v[2], v[3]);
      if (add) {
        float4 o = *q;
        r = make_float4(o.x + r.x, o.y + r.y, o.z + r.z, o.w + r.w);
      }
      // One instruction; the compiler would split some of these stores.
      asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(q), "f"(r.x), "f"(r.y), "f"(r.z), "f"(r.w) : "memory");
    } else {
      u32 w[2] = {0, 0};
      uint2* q = (uint2*)at;
      if (add) {
        uint2 o = *q;
        w[0] = o.x;
        w[1] = o.y;
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float lo = v[2 * j], hi = v[2 * j + 1];
        if (add) {
          lo += from_16(w[j] & 0xffff, type);
          hi += from_16(w[j] >> 16, type);
        }
        w[j] = (u32)to_16(lo, type) | (u32)to_16(hi, type) << 16;
      }
      *q = make_uint2(w[0], w[1]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (j >= valid) break;
      if (type == TYPE_F32) {
        float* q = (float*)at + j;
        *q = add ? *q + v[j] : v[j];
      } else {
        u16* q = (u16*)at + j;
        *q = to_16(add ? from_16(*q, type) + v[j] : v[j], type);
      }
    }
  }
}

// v[j] *= mask of element index + j, for four neighbours (two Philox blocks when they straddle one).
DEVICE void mask4(float (&v)[4], u64 index, const Dropout& d, u32 step) {
  u32 w[4];
  dropout_words(w, d, step, index >> 2);
  u32 shift = (u32)index & 3;
  if (shift) {
    u32 z[4];
    dropout_words(z, d, step, (index >> 2) + 1);
#pragma unroll 1
    for (u32 turn = 0; turn < shift; turn++) {
      w[0] = w[1], w[1] = w[2], w[2] = w[3], w[3] = z[0];
      z[0] = z[1], z[1] = z[2];
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++) v[j] = w[j] >= d.threshold ? v[j] * d.keep_scale : 0.f;
}

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// Four floats to and from shared memory in one instruction; the compiler splits such accesses now and then, and lanes
// 16 bytes apart then meet in a bank.
DEVICE float4 load_shared4(const float* p) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(shared_address(p)));
  return v;
}
DEVICE void store_shared4(float* p, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(p)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// Copies `bytes` (0 … 16) to shared memory without waiting and fills the rest of the 16 with zeros.
DEVICE void cp_async16(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
