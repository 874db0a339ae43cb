// softmax, norms and cross entropy: one workgroup of 256 per row, sums and maxima by a tree in workgroup memory.
//
//   softmax_forward      y = exp(x - max) / sum exp(x - max)
//   softmax_backward     dx (+)= y (gy - rowsum(gy y))
//   rms_norm_forward     rstd = 1 / sqrt(mean(x^2) + eps), y = x rstd w
//   layer_norm_forward   the same with x - mean, plus b
//   norm_backward        xh = (x - mean) rstd, t = gy w: dx (+)= rstd (t - mean(t) - xh mean(t xh)); RMS without means
//   norm_weights         dw (+)= sum gy xh, db (+)= sum gy over rows, 16 columns a workgroup, 16 strips of rows
//   cross_entropy_forward   lse = max + ln sum exp(x - max) and each row's loss
//   cross_entropy_backward  x = gy / denominator (exp(x - lse) - onehot), in place
//
// The order of sums depends on cols alone. Bindings: up to three outputs, then up to five inputs, by entry point.

struct Params {
    rows: u32,
    cols: u32,
    y_start: u32,
    y2_start: u32,
    y3_start: u32,
    x_start: u32,
    w_start: u32,
    b_start: u32,
    mean_start: u32,
    rstd_start: u32,
    gy_start: u32,
    eps: f32,
    factor: f32,
}

override ADD: u32 = 0u;
override ADD2: u32 = 0u;
// LayerNorm: with mean and bias.
override LAYER: u32 = 0u;
// norm_weights: which of dw, db are there.
override DW: u32 = 0u;
override DB: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> y2: array<f32>;
@group(0) @binding(3) var<storage, read_write> y3: array<f32>;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read> w: array<f32>;
@group(0) @binding(6) var<storage, read> gy: array<f32>;
@group(0) @binding(7) var<storage, read> mean_in: array<f32>;
@group(0) @binding(8) var<storage, read> rstd_in: array<f32>;

var<workgroup> parts: array<f32, 256>;

// The sum over the workgroup, in every invocation.
fn total(lane: u32, v: f32) -> f32 {
    parts[lane] = v;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { parts[lane] += parts[lane + half]; }
        workgroupBarrier();
    }
    let sum = parts[0];
    workgroupBarrier();
    return sum;
}

fn largest(lane: u32, v: f32) -> f32 {
    parts[lane] = v;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { parts[lane] = larger(parts[lane], parts[lane + half]); }
        workgroupBarrier();
    }
    let max = parts[0];
    workgroupBarrier();
    return max;
}

fn row_max(start: u32, lane: u32) -> f32 {
    var v = negative_infinity();
    for (var i = lane; i < params.cols; i += 256u) { v = larger(v, x[start + i]); }
    return largest(lane, v);
}

fn write(i: u32, v: f32) {
    if (ADD != 0u) { y[i] = y[i] + v; } else { y[i] = v; }
}

@compute @workgroup_size(256)
fn softmax_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.x_start + row * params.cols;
    let out = params.y_start + row * params.cols;
    let max = row_max(start, lane);
    var v = 0.0;
    for (var i = lane; i < params.cols; i += 256u) { v += exp_of(x[start + i] - max); }
    let sum = total(lane, v);
    for (var i = lane; i < params.cols; i += 256u) { y[out + i] = exp_of(x[start + i] - max) / sum; }
}

@compute @workgroup_size(256)
fn softmax_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.x_start + row * params.cols;
    let g = params.gy_start + row * params.cols;
    var v = 0.0;
    for (var i = lane; i < params.cols; i += 256u) { v = fma(gy[g + i], x[start + i], v); }
    let sum = total(lane, v);
    for (var i = lane; i < params.cols; i += 256u) {
        write(params.y_start + row * params.cols + i, x[start + i] * (gy[g + i] - sum));
    }
}

// y2 is rstd, y3 the mean.
@compute @workgroup_size(256)
fn norm_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.x_start + row * params.cols;
    var mean = 0.0;
    if (LAYER != 0u) {
        var v = 0.0;
        for (var i = lane; i < params.cols; i += 256u) { v += x[start + i]; }
        mean = total(lane, v) / f32(params.cols);
    }
    var v = 0.0;
    for (var i = lane; i < params.cols; i += 256u) {
        let c = x[start + i] - mean;
        v = fma(c, c, v);
    }
    let rstd = 1.0 / sqrt(total(lane, v) / f32(params.cols) + params.eps);
    if (lane == 0u) {
        y2[params.y2_start + row] = rstd;
        if (LAYER != 0u) { y3[params.y3_start + row] = mean; }
    }
    for (var i = lane; i < params.cols; i += 256u) {
        var v = (x[start + i] - mean) * rstd * w[params.w_start + i];
        if (LAYER != 0u) { v += gy[params.b_start + i]; }
        y[params.y_start + row * params.cols + i] = v;
    }
}

@compute @workgroup_size(256)
fn norm_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.x_start + row * params.cols;
    let g = params.gy_start + row * params.cols;
    let rstd = rstd_in[params.rstd_start + row];
    var mean = 0.0;
    if (LAYER != 0u) { mean = mean_in[params.mean_start + row]; }
    var along = 0.0;
    var sum = 0.0;
    for (var i = lane; i < params.cols; i += 256u) {
        let t = gy[g + i] * w[params.w_start + i];
        along = fma(t, (x[start + i] - mean) * rstd, along);
        sum += t;
    }
    along = total(lane, along) / f32(params.cols);
    sum = total(lane, sum) / f32(params.cols);
    if (LAYER == 0u) { sum = 0.0; }
    for (var i = lane; i < params.cols; i += 256u) {
        let t = gy[g + i] * w[params.w_start + i];
        let xh = (x[start + i] - mean) * rstd;
        write(params.y_start + row * params.cols + i, rstd * (t - sum - xh * along));
    }
}

// The sum over the 16 strips of rows of one column, in the invocations of the first strip.
fn over_strips(lane: u32, v: f32) -> f32 {
    parts[lane] = v;
    workgroupBarrier();
    for (var half = 8u; half > 0u; half >>= 1u) {
        if (lane / 16u < half) { parts[lane] += parts[lane + half * 16u]; }
        workgroupBarrier();
    }
    let sum = parts[lane % 16u];
    workgroupBarrier();
    return sum;
}

// y is dw, y2 is db. A workgroup owns 16 columns; invocation 16 s + c takes rows s, s + 16, ... of column c, and a tree
// adds the 16 strips: the order depends on rows alone.
@compute @workgroup_size(256)
fn norm_weights(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let column = folded(group, groups) * 16u + lane % 16u;
    var dw = 0.0;
    var db = 0.0;
    if (column < params.cols) {
        for (var row = lane / 16u; row < params.rows; row += 16u) {
            let g = gy[params.gy_start + row * params.cols + column];
            var mean = 0.0;
            if (LAYER != 0u) { mean = mean_in[params.mean_start + row]; }
            let xh = (x[params.x_start + row * params.cols + column] - mean) * rstd_in[params.rstd_start + row];
            dw = fma(g, xh, dw);
            db += g;
        }
    }
    if (DW != 0u) { dw = over_strips(lane, dw); }
    if (DB != 0u) { db = over_strips(lane, db); }
    if (lane >= 16u || column >= params.cols) { return; }
    if (DW != 0u) { write(params.y_start + column, dw); }
    if (DB != 0u) {
        let i = params.y2_start + column;
        if (ADD2 != 0u) { y2[i] = y2[i] + db; } else { y2[i] = db; }
    }
}

const IGNORE: u32 = 0xffffffffu;

// w holds the targets. y is lse, y2 each row's loss over the denominator.
@compute @workgroup_size(256)
fn cross_entropy_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.x_start + row * params.cols;
    let max = row_max(start, lane);
    var v = 0.0;
    for (var i = lane; i < params.cols; i += 256u) { v += exp_of(x[start + i] - max); }
    let lse = max + log_of(total(lane, v));
    if (lane == 0u) {
        y[params.y_start + row] = lse;
        let target_id = bitcast<u32>(w[params.w_start + row]);
        var loss = 0.0;
        if (target_id != IGNORE) {
            if (target_id < params.cols) { loss = lse - x[start + target_id]; } else { loss = nan(); }
        }
        y2[params.y2_start + row] = loss;
    }
}

// y is the logits; w the targets, mean_in lse, rstd_in the gradient of the loss.
@compute @workgroup_size(256)
fn cross_entropy_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    if (row >= params.rows) { return; }
    let start = params.y_start + row * params.cols;
    let target_id = bitcast<u32>(w[params.w_start + row]);
    let lse = mean_in[params.mean_start + row];
    let factor = rstd_in[params.rstd_start] * params.factor;
    for (var i = lane; i < params.cols; i += 256u) {
        if (target_id == IGNORE) {
            y[start + i] = 0.0;
        } else if (target_id >= params.cols) {
            y[start + i] = nan();
        } else {
            y[start + i] = factor * (exp_of(y[start + i] - lse) - select(0.0, 1.0, i == target_id));
        }
    }
}
