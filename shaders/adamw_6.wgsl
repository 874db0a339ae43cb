// AdamW of up to six tensors: 25 storage buffers, for adapters that have them (most have 29 or more).

const TENSORS: u32 = 6u;

@group(0) @binding(1) var<storage, read_write> p0: array<f32>;
@group(0) @binding(2) var<storage, read_write> p1: array<f32>;
@group(0) @binding(3) var<storage, read_write> p2: array<f32>;
@group(0) @binding(4) var<storage, read_write> p3: array<f32>;
@group(0) @binding(5) var<storage, read_write> p4: array<f32>;
@group(0) @binding(6) var<storage, read_write> p5: array<f32>;
@group(0) @binding(7) var<storage, read_write> m0: array<f32>;
@group(0) @binding(8) var<storage, read_write> m1: array<f32>;
@group(0) @binding(9) var<storage, read_write> m2: array<f32>;
@group(0) @binding(10) var<storage, read_write> m3: array<f32>;
@group(0) @binding(11) var<storage, read_write> m4: array<f32>;
@group(0) @binding(12) var<storage, read_write> m5: array<f32>;
@group(0) @binding(13) var<storage, read_write> v0: array<f32>;
@group(0) @binding(14) var<storage, read_write> v1: array<f32>;
@group(0) @binding(15) var<storage, read_write> v2: array<f32>;
@group(0) @binding(16) var<storage, read_write> v3: array<f32>;
@group(0) @binding(17) var<storage, read_write> v4: array<f32>;
@group(0) @binding(18) var<storage, read_write> v5: array<f32>;
@group(0) @binding(19) var<storage, read> g0: array<f32>;
@group(0) @binding(20) var<storage, read> g1: array<f32>;
@group(0) @binding(21) var<storage, read> g2: array<f32>;
@group(0) @binding(22) var<storage, read> g3: array<f32>;
@group(0) @binding(23) var<storage, read> g4: array<f32>;
@group(0) @binding(24) var<storage, read> g5: array<f32>;
@group(0) @binding(25) var<storage, read> scalars: array<f32>;

fn read_p(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return p0[i]; }
        case 1u: { return p1[i]; }
        case 2u: { return p2[i]; }
        case 3u: { return p3[i]; }
        case 4u: { return p4[i]; }
        default: { return p5[i]; }
    }
}

fn read_m(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return m0[i]; }
        case 1u: { return m1[i]; }
        case 2u: { return m2[i]; }
        case 3u: { return m3[i]; }
        case 4u: { return m4[i]; }
        default: { return m5[i]; }
    }
}

fn read_v(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return v0[i]; }
        case 1u: { return v1[i]; }
        case 2u: { return v2[i]; }
        case 3u: { return v3[i]; }
        case 4u: { return v4[i]; }
        default: { return v5[i]; }
    }
}

fn read_g(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return g0[i]; }
        case 1u: { return g1[i]; }
        case 2u: { return g2[i]; }
        case 3u: { return g3[i]; }
        case 4u: { return g4[i]; }
        default: { return g5[i]; }
    }
}

fn write_p(which: u32, i: u32, x: f32) {
    switch (which) {
        case 0u: { p0[i] = x; }
        case 1u: { p1[i] = x; }
        case 2u: { p2[i] = x; }
        case 3u: { p3[i] = x; }
        case 4u: { p4[i] = x; }
        default: { p5[i] = x; }
    }
}

fn write_m(which: u32, i: u32, x: f32) {
    switch (which) {
        case 0u: { m0[i] = x; }
        case 1u: { m1[i] = x; }
        case 2u: { m2[i] = x; }
        case 3u: { m3[i] = x; }
        case 4u: { m4[i] = x; }
        default: { m5[i] = x; }
    }
}

fn write_v(which: u32, i: u32, x: f32) {
    switch (which) {
        case 0u: { v0[i] = x; }
        case 1u: { v1[i] = x; }
        case 2u: { v2[i] = x; }
        case 3u: { v3[i] = x; }
        case 4u: { v4[i] = x; }
        default: { v5[i] = x; }
    }
}
