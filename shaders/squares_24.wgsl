// The sums of squares of up to twenty-four gradients: 25 storage buffers, for adapters that have them.

const GRADIENTS: u32 = 24u;

@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<storage, read> g0: array<f32>;
@group(0) @binding(3) var<storage, read> g1: array<f32>;
@group(0) @binding(4) var<storage, read> g2: array<f32>;
@group(0) @binding(5) var<storage, read> g3: array<f32>;
@group(0) @binding(6) var<storage, read> g4: array<f32>;
@group(0) @binding(7) var<storage, read> g5: array<f32>;
@group(0) @binding(8) var<storage, read> g6: array<f32>;
@group(0) @binding(9) var<storage, read> g7: array<f32>;
@group(0) @binding(10) var<storage, read> g8: array<f32>;
@group(0) @binding(11) var<storage, read> g9: array<f32>;
@group(0) @binding(12) var<storage, read> g10: array<f32>;
@group(0) @binding(13) var<storage, read> g11: array<f32>;
@group(0) @binding(14) var<storage, read> g12: array<f32>;
@group(0) @binding(15) var<storage, read> g13: array<f32>;
@group(0) @binding(16) var<storage, read> g14: array<f32>;
@group(0) @binding(17) var<storage, read> g15: array<f32>;
@group(0) @binding(18) var<storage, read> g16: array<f32>;
@group(0) @binding(19) var<storage, read> g17: array<f32>;
@group(0) @binding(20) var<storage, read> g18: array<f32>;
@group(0) @binding(21) var<storage, read> g19: array<f32>;
@group(0) @binding(22) var<storage, read> g20: array<f32>;
@group(0) @binding(23) var<storage, read> g21: array<f32>;
@group(0) @binding(24) var<storage, read> g22: array<f32>;
@group(0) @binding(25) var<storage, read> g23: array<f32>;

fn gradient(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return g0[i]; }
        case 1u: { return g1[i]; }
        case 2u: { return g2[i]; }
        case 3u: { return g3[i]; }
        case 4u: { return g4[i]; }
        case 5u: { return g5[i]; }
        case 6u: { return g6[i]; }
        case 7u: { return g7[i]; }
        case 8u: { return g8[i]; }
        case 9u: { return g9[i]; }
        case 10u: { return g10[i]; }
        case 11u: { return g11[i]; }
        case 12u: { return g12[i]; }
        case 13u: { return g13[i]; }
        case 14u: { return g14[i]; }
        case 15u: { return g15[i]; }
        case 16u: { return g16[i]; }
        case 17u: { return g17[i]; }
        case 18u: { return g18[i]; }
        case 19u: { return g19[i]; }
        case 20u: { return g20[i]; }
        case 21u: { return g21[i]; }
        case 22u: { return g22[i]; }
        default: { return g23[i]; }
    }
}
