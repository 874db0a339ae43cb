// AdamW of one tensor: 5 storage buffers, within the default of every adapter.

const TENSORS: u32 = 1u;

@group(0) @binding(1) var<storage, read_write> p0: array<f32>;
@group(0) @binding(2) var<storage, read_write> m0: array<f32>;
@group(0) @binding(3) var<storage, read_write> v0: array<f32>;
@group(0) @binding(4) var<storage, read> g0: array<f32>;
@group(0) @binding(5) var<storage, read> scalars: array<f32>;

fn read_p(which: u32, i: u32) -> f32 {
    return p0[i];
}

fn read_m(which: u32, i: u32) -> f32 {
    return m0[i];
}

fn read_v(which: u32, i: u32) -> f32 {
    return v0[i];
}

fn read_g(which: u32, i: u32) -> f32 {
    return g0[i];
}

fn write_p(which: u32, i: u32, x: f32) {
    p0[i] = x;
}

fn write_m(which: u32, i: u32, x: f32) {
    m0[i] = x;
}

fn write_v(which: u32, i: u32, x: f32) {
    v0[i] = x;
}
