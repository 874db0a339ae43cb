// Activations and their derivatives, in f32 by the accurate library functions. Needs common.cuh before it.
#pragma once

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }

// d/dx x σ(x) = σ (1 + x (1 - σ))
DEVICE float silu_grad(float x) {
  float s = sigmoid(x);
  return s * fmaf(x, 1.0f - s, 1.0f);
}

// Φ(x), relative error small in both tails.
DEVICE float normal_cdf(float x) { return normcdff(x); }
DEVICE float normal_density(float x) { return 0.39894228f * expf(-0.5f * x * x); }
DEVICE float gelu_erf(float x) { return x * normal_cdf(x); }
DEVICE float gelu_erf_grad(float x) { return fmaf(x, normal_density(x), normal_cdf(x)); }

// ½x(1 + tanh u) = x σ(2u) with u = √(2/π)(x + 0.044715 x³)
DEVICE float gelu_tanh(float x) { return x * sigmoid(1.5957691216f * fmaf(0.044715f * x * x, x, x)); }
DEVICE float gelu_tanh_grad(float x) {
  float s = sigmoid(1.5957691216f * fmaf(0.044715f * x * x, x, x));
  return s + x * s * (1.0f - s) * 1.5957691216f * fmaf(0.134145f * x, x, 1.0f);
}
