//! What holds for any training: where gradients flow, what is never allocated, when the host waits, what is refused.

use libtest_mimic::Failed;
use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, Init, LoraConfig, attach, merge, unmerge};
use lowrank_models::Mlp;

use crate::devices::{Checks, Target};
use crate::random::Random;
use crate::report::{Outcome, ensure, fail, same_bits, within};

/// The trials of this module.
pub const CHECKS: Checks = &[
    ("every-adapter-gets-a-gradient", every_adapter_gets_a_gradient),
    ("b-zero", b_zero),
    ("both-zero", both_zero),
    ("no-weight-gradient", no_weight_gradient),
    ("no-weight-sized-temporary-in-dora", no_weight_sized_temporary_in_dora),
    ("frozen-a", frozen_a),
    ("no-waits-and-no-leaks", no_waits_and_no_leaks),
    ("dropout-mask-is-the-same-backward", dropout_mask_is_the_same_backward),
    ("dropout-masks-differ-by-step-and-site", dropout_masks_differ_by_step_and_site),
    ("ignored-rows", ignored_rows),
    ("merged-equals-unmerged", merged_equals_unmerged),
    ("a-parameter-without-gradient-is-named", a_parameter_without_gradient_is_named),
    ("graph-errors", graph_errors),
    ("one-tensor-as-two-inputs", one_tensor_as_two_inputs),
];

const BATCH: usize = 20;

/// AdamW over some parameters at 1e-3.
pub fn adamw(params: Vec<(String, Tensor)>, weight_decay: f64) -> Result<AdamW, Failed> {
    Ok(AdamW::new(vec![Group { params, lr: 1e-3, weight_decay }], AdamWOptions::default())?)
}

/// A perceptron with adapters on both layers, and a batch for it.
struct Flow {
    device: Device,
    mlp: Mlp,
    adapter: Adapter,
    x: Tensor,
    targets: Tensor,
}

impl Flow {
    fn new(target: &Target, init: Init) -> Result<Self, Failed> {
        let device = target.open()?;
        let mut mlp = Mlp::new(12, 24, 7, 3, &device, target.dtype())?;
        let adapter = Adapter::create(&mlp, "default", LoraConfig { r: 3, init, ..LoraConfig::default() }, 5)?;
        attach(&mut mlp, &adapter)?;
        let mut random = Random::of("flow");
        let x = Tensor::from_f64(&random.vec(BATCH * 12), &[BATCH, 12], target.dtype(), &device)?;
        let targets: Vec<u32> = (0..BATCH).map(|_| random.integer(0, 6) as u32).collect();
        let targets = Tensor::from_slice(&targets, &[BATCH], &device)?;
        Ok(Flow { device, mlp, adapter, x, targets })
    }

    fn loss(&self) -> Result<Tensor, Failed> {
        Ok(self.mlp.forward(&self.x)?.cross_entropy(&self.targets, BATCH as f64)?)
    }

    /// (name, gradient) of every parameter after a backward pass.
    fn gradients(&self) -> Result<Vec<(String, Vec<f64>)>, Failed> {
        self.loss()?.backward()?;
        let parameters = self.adapter.parameters();
        ensure(parameters.len() == 4, || format!("{} parameters, expected A and B of two layers", parameters.len()))?;
        parameters
            .into_iter()
            .map(|(name, t)| match t.grad() {
                Some(grad) => Ok((name, grad.to_f64()?)),
                None => fail(format!("{name} got no gradient")),
            })
            .collect()
    }
}

fn is_zero(values: &[f64]) -> bool {
    values.iter().all(|v| *v == 0.0)
}

/// A and B random: every gradient is finite and not zero. The base has none.
fn every_adapter_gets_a_gradient(target: &Target) -> Outcome {
    let flow = Flow::new(target, Init::BothRandom)?;
    for (name, grad) in flow.gradients()? {
        ensure(grad.iter().all(|g| g.is_finite()), || format!("gradient of {name} is not finite"))?;
        ensure(!is_zero(&grad), || format!("gradient of {name} is zero"))?;
    }
    for layer in [flow.mlp.fc1(), flow.mlp.fc2()] {
        let frozen = [Some(layer.weight()), layer.bias()].into_iter().flatten().all(|t| t.grad().is_none());
        ensure(frozen, || format!("the frozen base of {} has a gradient", layer.name()))?;
    }
    Ok(())
}

/// B = 0: dA = s (gy B)ᵀ x is exactly 0, dB is not; after one step both move.
fn b_zero(target: &Target) -> Outcome {
    let flow = Flow::new(target, Init::Default)?;
    for (name, grad) in flow.gradients()? {
        ensure(is_zero(&grad) == name.contains("lora_A"), || format!("gradient of {name} with B = 0: {grad:?}"))?;
    }
    let mut optimiser = adamw(flow.adapter.parameters(), 0.0)?;
    optimiser.step(1.0, None)?;
    optimiser.zero_grad();
    for (name, grad) in flow.gradients()? {
        ensure(!is_zero(&grad), || format!("gradient of {name} is zero after a step"))?;
    }
    Ok(())
}

/// A = B = 0: each gradient is a product with the other, so nothing ever moves.
fn both_zero(target: &Target) -> Outcome {
    for (name, grad) in Flow::new(target, Init::BothZero)?.gradients()? {
        ensure(is_zero(&grad), || format!("gradient of {name} with A = B = 0: {grad:?}"))?;
    }
    Ok(())
}

/// Forward and backward through a frozen W `[n,k]` never hold as many bytes as its gradient would take.
fn no_weight_gradient(target: &Target) -> Outcome {
    let (m, n, k, r) = (4, 512, 512, 4);
    let device = target.open()?;
    let mut random = Random::of("peak");
    let mut tensor = |shape: &[usize], dtype: DType| -> Result<Tensor, Failed> {
        Ok(Tensor::from_f64(&random.vec(shape.iter().product()), shape, dtype, &device)?)
    };
    let float = target.dtype();
    for stored in [float, DType::BF16] {
        let w = tensor(&[n, k], stored)?;
        let x = tensor(&[m, k], float)?.trainable()?;
        let (a, b) = (tensor(&[r, k], float)?.trainable()?, tensor(&[n, r], float)?.trainable()?);
        let before = device.stats().bytes_live;
        device.backend().reset_peak();
        let y = x.lora_linear(&w, None, &a, &b, 2.0, 0.1)?.linear(&w, None)?;
        y.square()?.sum()?.backward()?;
        let growth = device.stats().bytes_peak - before;
        let gradient = (n * k * float.size()) as u64;
        ensure(growth < gradient / 4, || {
            format!("{stored} weight: peak grew by {growth} bytes, dW would be {gradient}")
        })?;
        ensure(w.grad().is_none(), || "the frozen W has a gradient".into())?;
    }
    Ok(())
}

/// The norm of W + sBA, forward and backward of DoRA: nothing of W's size, in any dtype, is ever held.
fn no_weight_sized_temporary_in_dora(target: &Target) -> Outcome {
    let (m, n, k, r) = (4, 512, 512, 4);
    let device = target.open()?;
    let mut random = Random::of("dora peak");
    let mut tensor = |shape: &[usize], dtype: DType| -> Result<Tensor, Failed> {
        Ok(Tensor::from_f64(&random.vec(shape.iter().product()), shape, dtype, &device)?)
    };
    let float = target.dtype();
    for stored in [float, DType::BF16] {
        let w = tensor(&[n, k], stored)?;
        let x = tensor(&[m, k], float)?.trainable()?;
        let (a, b) = (tensor(&[r, k], float)?.trainable()?, tensor(&[n, r], float)?.trainable()?);
        let before = device.stats().bytes_live;
        device.backend().reset_peak();
        let squares = w.row_squares(float)?;
        let magnitude = w.dora_norm(&squares, &a, &b, 2.0)?.trainable()?;
        for dropout in [0.0, 0.1] {
            let y = x.dora_linear(&w, &squares, None, &a, &b, &magnitude, 2.0, dropout)?;
            y.square()?.sum()?.backward()?;
        }
        let growth = device.stats().bytes_peak - before;
        let whole = (n * k * float.size()) as u64;
        ensure(growth < whole / 4, || format!("{stored} weight: peak grew by {growth} bytes, [n,k] would be {whole}"))?;
        ensure(magnitude.grad().is_some(), || "the magnitude has no gradient".into())?;
    }
    Ok(())
}

/// LoRA-FA: nothing of A's size is allocated in backward, and without fusion one product less is launched.
fn frozen_a(target: &Target) -> Outcome {
    let (m, n, k, r) = (4, 32, 2048, 64);
    let device = target.open()?;
    let mut random = Random::of("frozen a");
    let mut tensor = |shape: &[usize]| -> Result<Tensor, Failed> {
        Ok(Tensor::from_f64(&random.vec(shape.iter().product()), shape, target.dtype(), &device)?)
    };
    let (x, w, a, b) = (tensor(&[m, k])?, tensor(&[n, k])?, tensor(&[r, k])?, tensor(&[n, r])?.trainable()?);
    let trained = a.trainable()?;
    let cost = |a: &Tensor| -> Result<(u64, u64), Failed> {
        let loss = x.lora_linear(&w, None, a, &b, 2.0, 0.0)?.sum()?;
        let before = device.stats();
        device.backend().reset_peak();
        loss.backward()?;
        let after = device.stats();
        Ok((after.launches - before.launches, after.bytes_peak - before.bytes_live))
    };
    cost(&a)?;
    let (frozen, with_a) = (cost(&a)?, cost(&trained)?);
    let bytes = (r * k * target.dtype().size()) as u64;
    ensure(frozen.1 < bytes / 2, || format!("peak grew by {} bytes, dA would be {bytes}", frozen.1))?;
    ensure(with_a.1 >= bytes, || format!("with A trainable the peak grew by {} bytes only", with_a.1))?;
    ensure(a.grad().is_none() && trained.grad().is_some() && b.grad().is_some(), || "wrong gradients".into())?;
    if target.unfused || target.is_reference() {
        ensure(frozen.0 < with_a.0, || format!("{} launches with A frozen, {} else", frozen.0, with_a.0))?;
    }
    Ok(())
}

/// A training step does not wait for the device, and leaves nothing behind.
fn no_waits_and_no_leaks(target: &Target) -> Outcome {
    let flow = Flow::new(target, Init::BothRandom)?;
    let mut optimiser = adamw(flow.adapter.parameters(), 0.01)?;
    let mut live = None;
    for step in 0..4 {
        let before = flow.device.stats();
        flow.device.begin_step(step)?;
        optimiser.zero_grad();
        flow.loss()?.backward()?;
        optimiser.step(0.5, Some(1.0))?;
        let after = flow.device.stats();
        ensure(after.waits == before.waits, || format!("step {step} waited {} times", after.waits - before.waits))?;
        ensure(after.launches > before.launches, || "launches are not counted".into())?;
        let expected = *live.get_or_insert(after.bytes_live);
        ensure(after.bytes_live == expected, || format!("{} bytes live, {expected} after step 0", after.bytes_live))?;
    }
    Ok(())
}

/// With x = 1, what comes out and what goes back is the mask itself; a share p of it is 0.
fn dropout_mask_is_the_same_backward(target: &Target) -> Outcome {
    const P: f64 = 0.3;
    let device = target.open()?;
    device.set_seed(11);
    device.begin_step(6)?;
    let ones = |shape: &[usize]| Tensor::full(1.0, shape, target.dtype(), &device);
    let n = 100 * 100;
    let x = ones(&[100, 100])?.trainable()?;
    let y = x.dropout(P)?;
    let mask = y.to_f64()?;
    y.backward_with(ones(&[100, 100])?)?;
    same_bits("mask of dropout backward", &x.grad().ok_or("no gradient")?.to_f64()?, &mask)?;
    let share = mask.iter().filter(|m| **m == 0.0).count() as f64 / n as f64;
    // Four standard deviations.
    within("share of zeros", &[share], &[P], &[4.0 * (P * (1.0 - P) / n as f64).sqrt()])?;
    let kept = mask.iter().all(|m| *m == 0.0 || (m - 1.0 / (1.0 - P)).abs() < 1e-6);
    ensure(kept, || "kept elements are not scaled by 1/(1-p)".into())?;

    // The low-rank branch: W = 0 and A = B = 1 leave y = s mask.
    let k = 33;
    let identity: Vec<f64> = (0..k * k).map(|i| f64::from(u8::from(i % (k + 1) == 0))).collect();
    let identity = Tensor::from_f64(&identity, &[k, k], target.dtype(), &device)?;
    let (zero, x) = (Tensor::zeros(&[k, k], target.dtype(), &device)?, ones(&[20, k])?.trainable()?);
    let y = x.lora_linear(&zero, None, &identity, &identity, 1.0, P)?;
    let mask = y.to_f64()?;
    let zeros = mask.iter().filter(|m| **m == 0.0).count();
    ensure(zeros > 0 && zeros < mask.len(), || format!("{zeros} of {} elements dropped", mask.len()))?;
    y.backward_with(ones(&[20, k])?)?;
    same_bits("mask of the branch backward", &x.grad().ok_or("no gradient")?.to_f64()?, &mask)
}

/// Another step, another site and another seed have other masks; the same ones have the same.
fn dropout_masks_differ_by_step_and_site(target: &Target) -> Outcome {
    let device = target.open()?;
    let x = Tensor::full(1.0, &[500], target.dtype(), &device)?;
    let masks = |seed: u64, step: u32| -> Result<[Vec<f64>; 2], Failed> {
        device.set_seed(seed);
        device.begin_step(step)?;
        Ok([x.dropout(0.5)?.to_f64()?, x.dropout(0.5)?.to_f64()?])
    };
    let [first, second] = masks(1, 1)?;
    ensure(first != second, || "two sites of one step have one mask".into())?;
    ensure(masks(1, 2)?[0] != first, || "two steps have one mask".into())?;
    ensure(masks(2, 1)?[0] != first, || "two seeds have one mask".into())?;
    ensure(masks(1, 1)? == [first, second], || "the same seed and step have other masks".into())
}

/// A row that does not count changes nothing and gets a gradient of exactly 0.
fn ignored_rows(target: &Target) -> Outcome {
    let device = target.open()?;
    let mut values = Random::of("ignored").vec(3 * 5);
    let targets = Tensor::from_slice(&[4u32, u32::MAX, 0], &[3], &device)?;
    let run = |values: &[f64]| -> Result<(f64, Vec<f64>), Failed> {
        let x = Tensor::from_f64(values, &[3, 5], target.dtype(), &device)?.trainable()?;
        let loss = x.clone().cross_entropy(&targets, 2.0)?;
        let value = loss.item()?;
        loss.backward()?;
        Ok((value, x.grad().ok_or("no gradient")?.to_f64()?))
    };
    let (loss, grad) = run(&values)?;
    ensure(is_zero(&grad[5..10]), || format!("the ignored row has a gradient: {:?}", &grad[5..10]))?;
    ensure(!is_zero(&grad[..5]) && !is_zero(&grad[10..]), || "a row that counts has no gradient".into())?;
    values[5..10].fill(30.0);
    ensure(run(&values)?.0 == loss, || "the ignored row changed the loss".into())
}

/// W + sBA computes what W and the branch do; taking it back restores every bit.
fn merged_equals_unmerged(target: &Target) -> Outcome {
    let mut flow = Flow::new(target, Init::BothRandom)?;
    let forward = |mlp: &Mlp, x: &Tensor| -> Result<Vec<f64>, Failed> { Ok(no_grad(|| mlp.forward(x))?.to_f64()?) };
    let before = forward(&flow.mlp, &flow.x)?;
    let weight = flow.mlp.fc1().weight().to_f64()?;
    merge(&mut flow.mlp)?;
    let merged = forward(&flow.mlp, &flow.x)?;
    let largest = before.iter().fold(0.0f64, |m, y| m.max(y.abs()));
    within("merged", &merged, &before, &vec![100.0 * target.unit() * largest; before.len()])?;
    ensure(flow.mlp.fc1().is_merged(), || "fc1 does not say that it is merged".into())?;
    unmerge(&mut flow.mlp)?;
    same_bits("fc1.weight after unmerge", &flow.mlp.fc1().weight().to_f64()?, &weight)?;
    same_bits("result after unmerge", &forward(&flow.mlp, &flow.x)?, &before)
}

/// An optimiser does not skip a parameter that got no gradient: it names it.
fn a_parameter_without_gradient_is_named(target: &Target) -> Outcome {
    let device = target.open()?;
    let leaf = || -> Result<Tensor, Failed> { Ok(Tensor::full(1.0, &[2], target.dtype(), &device)?.trainable()?) };
    let (used, forgotten) = (leaf()?, leaf()?);
    let params = vec![("used".to_string(), used.clone()), ("forgotten".to_string(), forgotten.clone())];
    let mut optimiser = adamw(params, 0.0)?;
    used.sum()?.backward()?;
    match optimiser.step(1.0, None) {
        Ok(()) => fail("a step without a gradient of `forgotten` went through"),
        Err(e) => ensure(e.to_string().contains("forgotten"), || format!("{e} does not name it")),
    }?;
    same_bits("used after the refused step", &used.to_f64()?, &[1.0, 1.0])
}

/// A graph is used once; what is cut stays cut; devices do not mix.
fn graph_errors(target: &Target) -> Outcome {
    let (device, other) = (target.open()?, target.open()?);
    let x = Tensor::full(2.0, &[3], target.dtype(), &device)?.trainable()?;
    let y = x.square()?.sum()?;
    y.backward()?;
    ensure(y.backward().is_err(), || "a graph was used twice".into())?;
    ensure(x.square()?.backward().is_err(), || "backward from a tensor that is no scalar".into())?;
    ensure(x.detach().sum()?.backward().is_err(), || "backward went through detach".into())?;
    ensure(!no_grad(|| x.square())?.requires_grad(), || "no_grad recorded an operation".into())?;
    let y = Tensor::full(2.0, &[3], target.dtype(), &other)?;
    match x.add(&y) {
        Ok(_) => fail("tensors of two devices were added"),
        Err(e) => ensure(e.to_string().contains(&device.name()), || format!("{e} does not name the devices")),
    }
}

/// x used twice by one operation and again by the next: the parts are added.
fn one_tensor_as_two_inputs(target: &Target) -> Outcome {
    let device = target.open()?;
    let x = Tensor::from_f64(&[1.0, -2.0, 3.0], &[3], target.dtype(), &device)?.trainable()?;
    // x² + x + x, derivative 2x + 2.
    x.mul(&x)?.add(&x)?.add(&x)?.sum()?.backward()?;
    same_bits("gradient", &x.grad().ok_or("no gradient")?.to_f64()?, &[4.0, -2.0, 8.0])
}
