// The sums of squares of up to seven gradients: 8 storage buffers, the default of every adapter.

const GRADIENTS: u32 = 7u;

@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<storage, read> g0: array<f32>;
@group(0) @binding(3) var<storage, read> g1: array<f32>;
@group(0) @binding(4) var<storage, read> g2: array<f32>;
@group(0) @binding(5) var<storage, read> g3: array<f32>;
@group(0) @binding(6) var<storage, read> g4: array<f32>;
@group(0) @binding(7) var<storage, read> g5: array<f32>;
@group(0) @binding(8) var<storage, read> g6: array<f32>;

fn gradient(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return g0[i]; }
        case 1u: { return g1[i]; }
        case 2u: { return g2[i]; }
        case 3u: { return g3[i]; }
        case 4u: { return g4[i]; }
        case 5u: { return g5[i]; }
        default: { return g6[i]; }
    }
}
