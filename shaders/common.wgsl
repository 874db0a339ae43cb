// What every kernel starts with: storage types, NaN that survives, and functions whose error is known.
//
// WGSL lets a compiler assume that there is no NaN or infinity. So NaN is tested by its bits, and a maximum is a
// comparison that a NaN decides, never `max`.

const F32: u32 = 0u;
const BF16: u32 = 1u;
const F16: u32 = 2u;
const U32: u32 = 3u;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// A variable, because a constant expression may not be NaN or infinite.
fn from_bits(bits: u32) -> f32 {
    var b = bits;
    return bitcast<f32>(b);
}

fn nan() -> f32 {
    return from_bits(0x7fc00000u);
}

fn negative_infinity() -> f32 {
    return from_bits(0xff800000u);
}

// The larger one; NaN if either is.
fn larger(a: f32, b: f32) -> f32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b) || b > a) { return b; }
    return a;
}

// Number of a workgroup in a grid that was folded because it had more than 65535 groups in a row.
fn folded(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

// ---- 16-bit storage: two elements in a word, the first in the low half ----

fn f16_value(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let exponent = (h >> 10u) & 31u;
    let mantissa = h & 0x3ffu;
    if (exponent == 0u) {
        let value = f32(mantissa) * 5.9604644775390625e-8; // 2^-24
        return bitcast<f32>(bitcast<u32>(value) | sign);
    }
    if (exponent == 31u) { return from_bits(sign | 0x7f800000u | (mantissa << 13u)); }
    return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (mantissa << 13u));
}

fn half_value(half: u32, kind: u32) -> f32 {
    if (kind == BF16) { return bitcast<f32>(half << 16u); }
    return f16_value(half);
}

// Element i of a word that holds elements i and i ± 1.
fn half_of(word: u32, i: u32) -> u32 {
    return (word >> ((i & 1u) * 16u)) & 0xffffu;
}

// To bf16, to nearest, ties to even.
fn bf16_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    if (is_nan(x)) { return (b >> 16u) | 0x40u; }
    return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}

// To f16, to nearest, ties to even; too large becomes infinite.
fn f16_bits(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    let sign = (b >> 16u) & 0x8000u;
    let a = b & 0x7fffffffu;
    if (a > 0x7f800000u) { return sign | 0x7e00u; }
    if (a >= 0x477ff000u) { return sign | 0x7c00u; }
    if (a < 0x38800000u) {
        // Subnormal: a whole number of 2^-24. Adding 2^23 rounds it.
        let scaled = bitcast<f32>(a) * 16777216.0;
        let whole = u32(scaled);
        let rest = scaled - f32(whole);
        let up = rest > 0.5 || (rest == 0.5 && (whole & 1u) == 1u);
        return sign | (whole + select(0u, 1u, up));
    }
    let rounded = a + 0xfffu + ((a >> 13u) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13u);
}

fn half_bits(x: f32, kind: u32) -> u32 {
    if (kind == BF16) { return bf16_bits(x); }
    return f16_bits(x);
}

// ---- functions ----

// e^x to 2 units in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor's polynomial of degree 7, times 2^n in
// two steps so that results below the normal range come out. Built-in exp may be off by 3 + 2|x| units.
fn exp_of(x0: f32) -> f32 {
    if (is_nan(x0)) { return x0; }
    var x = x0;
    if (x > 89.0) { x = 89.0; }
    if (x < -104.0) { x = -104.0; }
    let n = floor(fma(x, 1.44269504, 0.5));
    var r = fma(n, -0.693359375, x);
    r = fma(n, 2.12194440e-4, r);
    var p = 1.9841270e-4;
    p = fma(p, r, 1.3888889e-3);
    p = fma(p, r, 8.3333333e-3);
    p = fma(p, r, 4.1666667e-2);
    p = fma(p, r, 1.6666667e-1);
    p = fma(p, r, 0.5);
    p = fma(p * r, r, r) + 1.0;
    let whole = i32(n);
    let first = whole >> 1u;
    return p * bitcast<f32>(u32(first + 127) << 23u) * bitcast<f32>(u32(whole - first + 127) << 23u);
}

// ln x: x = 2^n m with m in [sqrt(1/2), sqrt 2), and the polynomial of Cephes' logf in m - 1.
fn log_of(x0: f32) -> f32 {
    if (is_nan(x0) || x0 < 0.0) { return nan(); }
    if (x0 == 0.0) { return negative_infinity(); }
    if (!is_finite(x0)) { return x0; }
    var x = x0;
    var n = 0.0;
    if (x < 1.17549435e-38) { x *= 8388608.0; n = -23.0; }
    let b = bitcast<u32>(x);
    n += f32(i32(b >> 23u) - 126);
    var m = bitcast<f32>((b & 0x7fffffu) | 0x3f000000u);
    if (m < 0.70710678) { n -= 1.0; m = m + m - 1.0; } else { m = m - 1.0; }
    let z = m * m;
    var p = 7.0376836292e-2;
    p = fma(p, m, -1.1514610310e-1);
    p = fma(p, m, 1.1676998740e-1);
    p = fma(p, m, -1.2420140846e-1);
    p = fma(p, m, 1.4249322787e-1);
    p = fma(p, m, -1.6668057665e-1);
    p = fma(p, m, 2.0000714765e-1);
    p = fma(p, m, -2.4999993993e-1);
    p = fma(p, m, 3.3333331174e-1);
    var y = p * m * z;
    y = fma(n, -2.12194440e-4, y);
    y = fma(z, -0.5, y);
    return fma(n, 0.693359375, m + y);
}

// a / b, rounded once more: built-in division may be off by 2.5 units.
fn div_of(a: f32, b: f32) -> f32 {
    let q = a / b;
    if (!is_finite(q) || !is_finite(b) || abs(b) > 1e37 || abs(b) < 1e-30) { return q; }
    return fma(fma(-q, b, a), 1.0 / b, q);
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp_of(-x));
}

// tanh x: the polynomial of Cephes' tanhf below 0.625, else 1 - 2 / (e^2x + 1).
fn tanh_of(x: f32) -> f32 {
    let a = abs(x);
    if (a < 0.625) {
        let z = x * x;
        var p = -5.70498872745e-3;
        p = fma(p, z, 2.06390887954e-2);
        p = fma(p, z, -5.37397155531e-2);
        p = fma(p, z, 1.33314422036e-1);
        p = fma(p, z, -3.33332819422e-1);
        return fma(p * z, x, x);
    }
    let y = 1.0 - 2.0 / (exp_of(a + a) + 1.0);
    return select(y, -y, x < 0.0);
}

// The normal distribution's Phi(x) = erfc(-x / sqrt 2) / 2, with erfc by the Chebyshev fit of Press et al., Numerical
// Recipes in C, 2nd edition, section 6.2 (relative error below 1.2e-7).
fn normal_cdf(x: f32) -> f32 {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / fma(z, 0.5, 1.0);
    var p = 0.17087277;
    p = fma(p, t, -0.82215223);
    p = fma(p, t, 1.48851587);
    p = fma(p, t, -1.13520398);
    p = fma(p, t, 0.27886807);
    p = fma(p, t, -0.18628806);
    p = fma(p, t, 0.09678418);
    p = fma(p, t, 0.37409196);
    p = fma(p, t, 1.00002368);
    p = fma(p, t, -1.26551223);
    let tail = 0.5 * t * exp_of(fma(-z, z, p));
    return select(tail, 1.0 - tail, x >= 0.0);
}

fn normal_density(x: f32) -> f32 {
    return 0.39894228 * exp_of(-0.5 * x * x);
}

// ---- Philox 4x32-10 (Salmon et al. 2011), as on the host ----

// The high word of a product.
fn mul_high(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let mid = a1 * b0 + (low >> 16u);
    let other = a0 * b1 + (mid & 0xffffu);
    return a1 * b1 + (mid >> 16u) + (other >> 16u);
}

struct Mask {
    seed_low: u32,
    seed_high: u32,
    stream: u32,
    threshold: u32,
    keep: f32,
}

// The words of elements 4 quad .. 4 quad + 4.
fn philox(mask: Mask, step: u32, quad: u32) -> vec4<u32> {
    var c = vec4<u32>(quad, 0u, step, mask.stream);
    var k0 = mask.seed_low;
    var k1 = mask.seed_high;
    for (var round = 0u; round < 10u; round++) {
        let high0 = mul_high(c.x, 0xD2511F53u);
        let low0 = c.x * 0xD2511F53u;
        let high1 = mul_high(c.z, 0xCD9E8D57u);
        let low1 = c.z * 0xCD9E8D57u;
        c = vec4<u32>(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// What element `index` is multiplied with: 0 or keep.
fn dropped(mask: Mask, step: u32, index: u32, x: f32) -> f32 {
    let word = philox(mask, step, index >> 2u)[index & 3u];
    return select(0.0, x * mask.keep, word >= mask.threshold);
}
