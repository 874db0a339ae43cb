// Philox 4x32-10 (Salmon et al. 2011), and the dropout mask drawn from it. Needs common.cuh before it.
#pragma once

// One block: four words for a counter and a key.
DEVICE void philox(u32 c[4], u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    u64 p0 = (u64)c[0] * 0xD2511F53u, p1 = (u64)c[2] * 0xCD9E8D57u;
    u32 c1 = c[1], c3 = c[3];
    c[0] = (u32)(p1 >> 32) ^ c1 ^ k0;
    c[1] = (u32)p1;
    c[2] = (u32)(p0 >> 32) ^ c3 ^ k1;
    c[3] = (u32)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// One dropout site. The step is read from the scalar buffer on the device.
struct Dropout {
  u32 key0, key1, stream, threshold;
  float keep_scale;
};

// The four words of elements 4·quad … 4·quad + 3.
DEVICE void dropout_words(u32 w[4], const Dropout &d, u32 step, u64 quad) {
  w[0] = (u32)quad;
  w[1] = (u32)(quad >> 32);
  w[2] = step;
  w[3] = d.stream;
  philox(w, d.key0, d.key1);
}

// What element `index` is multiplied with: 0 or 1/(1-p).
DEVICE float dropout_factor(const Dropout &d, u32 step, u64 index) {
  u32 w[4];
  dropout_words(w, d, step, index / 4);
  u32 i = (u32)index % 4;
  u32 word = i == 0 ? w[0] : i == 1 ? w[1] : i == 2 ? w[2] : w[3];
  return word >= d.threshold ? d.keep_scale : 0.0f;
}
