// What the files of attention share: operands, and how heads lie in memory. q, y and their gradients are
// [batch, q_len, heads, dim], k and v [batch, kv_len, kv_heads, dim], lse and delta [batch, heads, q_len] f32.
#pragma once

struct Attention {
  const void *q, *k, *v, *y, *gy;
  const float *lse, *delta;
  void *out, *dq, *dk, *dv;
  float *lse_out, *delta_out;
  u32 batch, q_len, kv_len, heads, kv_heads, dim;
  float scale;
  u32 causal;
  u32 add_dq, add_dk, add_dv;
  u32 type;     // of everything but lse and delta: TYPE_F32 or TYPE_BF16
  u32 rounded;  // products round their operands to bf16
};

constexpr float LOG2E = 1.4426950408889634f;

DEVICE float hidden() { return __int_as_float(0xff800000); }  // −∞
