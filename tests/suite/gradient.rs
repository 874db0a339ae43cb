//! Backward rules: against finite differences in f64 on the reference, and every device against the reference.

use libtest_mimic::{Failed, Trial};
use lowrank_core::{Device, Result, no_grad};

use crate::case::{Bound, Case, Ran, Values, absolute};
use crate::cases;
use crate::devices::{self, Target};
use crate::random::Random;
use crate::report::{Outcome, ensure, fail, remember, within};

/// Above this many elements in an input, random directions take the place of single elements.
const SINGLE: usize = 64;
/// How many directions.
const DIRECTIONS: usize = 4;
fn reference() -> Target {
    devices::all().swap_remove(0)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The scalar that is differentiated: Σ gy⊙y.
fn loss(case: &Case, target: &Target, device: &Device, values: &[Vec<f64>], gy: &[f64]) -> Result<f64> {
    no_grad(|| case.run(target, device, values, None)).map(|ran| dot(&ran.y, gy))
}

/// `values` with input i moved by `step` times `direction`.
fn moved(values: &[Vec<f64>], i: usize, direction: &[f64], step: f64) -> Values {
    let mut values = values.to_vec();
    values[i].iter_mut().zip(direction).for_each(|(v, d)| *v += step * d);
    values
}

/// Large rows are left to the comparison of devices with the reference, whose loops know no sizes.
fn takes(case: &Case) -> bool {
    case.has_grad() && case.is_small()
}

/// A trial for each operation: central differences for every element of small inputs, random directions of large ones.
pub fn finite_differences() -> Vec<Trial> {
    cases::by_op()
        .iter()
        .filter(|(_, cases)| cases.iter().any(takes))
        .map(|(op, cases)| {
            Trial::test(format!("gradient/finite-differences/{op}"), move || {
                for case in cases.iter().filter(|case| takes(case)) {
                    difference(case).map_err(|e| crate::message(&case.name(), &e))?;
                }
                Ok(())
            })
        })
        .collect()
}

fn difference(case: &Case) -> Outcome {
    const TOLERANCE: f64 = 1e-6;
    let target = reference();
    let device = target.open()?;
    // A linear function has no truncation error: integers and steps of 1 make the quotient exact, and a cast invisible.
    let values = case.values(case.multilinear);
    let h = if case.multilinear { 1.0 } else { 1e-5 };
    let mut random = Random::of(&case.name());
    let n = case.output_len();
    let gy = if case.multilinear { random.small_integers(n) } else { random.vec(n) };
    let ran = case.run(&target, &device, &values, Some(&gy))?;
    for (i, input) in case.inputs.iter().enumerate().filter(|(_, input)| input.grad) {
        let Some(grad) = &ran.grads[i] else { return fail(format!("input {i} got no gradient")) };
        let directions: Vec<Vec<f64>> = if input.len() <= SINGLE {
            (0..input.len()).map(|j| (0..input.len()).map(|l| f64::from(u8::from(l == j))).collect()).collect()
        } else {
            (0..DIRECTIONS).map(|_| random.small_integers(input.len())).collect()
        };
        for direction in directions {
            let up = loss(case, &target, &device, &moved(&values, i, &direction, h), &gy)?;
            let down = loss(case, &target, &device, &moved(&values, i, &direction, -h), &gy)?;
            let quotient = (up - down) / (2.0 * h);
            let slope = dot(grad, &direction);
            let size = grad.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum::<f64>();
            let largest = grad.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            let allowed = TOLERANCE * size.max(largest).max(1e-3);
            let what = format!("derivative by input {i}");
            let ratio = within(&what, &[slope], &[quotient], &[allowed])?;
            remember("fd", case.op, "reference", &case.variant, ratio);
        }
    }
    Ok(())
}

/// What the gradients may be off by, given the reference's.
fn allowed(
    case: &Case,
    values: &[Vec<f64>],
    gy: &[f64],
    truth: &Ran,
    units: [f64; 2],
) -> Result<Vec<Vec<f64>>, Failed> {
    let bound = case.grad_bound.unwrap_or(case.bound);
    // Products: the reference on absolute values gives the magnitudes of every sum.
    let mut magnitudes = vec![None; truth.grads.len()];
    if let Bound::Product(_) = bound {
        let target = reference();
        let gy: Vec<f64> = gy.iter().map(|g| g.abs()).collect();
        magnitudes = case.run(&target, &target.open()?, &absolute(values), Some(&gy))?.grads;
    }
    let allowed = |(truth, magnitudes): (&Option<Vec<f64>>, Option<Vec<f64>>)| {
        bound.allowed(truth.as_deref().unwrap_or_default(), || magnitudes.unwrap_or_default(), units)
    };
    Ok(truth.grads.iter().zip(magnitudes).map(allowed).collect())
}

/// Every gradient tensor of a row on a device against the reference in f64.
pub fn check(case: &Case, target: &Target) -> Outcome {
    if target.is_reference() {
        return Ok(()); // finite differences check it
    }
    compare(case, target, 1)
}

/// Two backward passes into the same leaves give the sum.
pub fn accumulates(case: &Case, target: &Target) -> Outcome {
    if !case.is_small() {
        return Ok(());
    }
    compare(case, target, 2)
}

fn compare(case: &Case, target: &Target, times: usize) -> Outcome {
    let values = case.values(false);
    let gy = Random::of(&case.name()).vec(case.output_len());
    let oracle = reference();
    let truth = case.run(&oracle, &oracle.open()?, &values, Some(&gy))?;
    let allowed = allowed(case, &values, &gy, &truth, target.units())?;
    let device = target.open()?;
    let leaves = case.tensors(&values, target.dtype(), &device)?;
    let mut ran = case.run_on(&leaves, Some(&gy))?;
    for _ in 1..times {
        ran = case.run_on(&leaves, Some(&gy))?;
    }
    let factor = times as f64;
    for (i, input) in case.inputs.iter().enumerate() {
        ensure(ran.grads[i].is_some() == input.grad, || {
            format!(
                "input {i} is {}, but that is not what backward did",
                if input.grad { "trainable" } else { "frozen" }
            )
        })?;
        if let (Some(got), Some(want)) = (&ran.grads[i], &truth.grads[i]) {
            let want: Vec<f64> = want.iter().map(|w| factor * w).collect();
            // One more addition rounds once more.
            let allowed: Vec<f64> = allowed[i]
                .iter()
                .zip(&want)
                .map(|(a, w)| factor * a + (factor - 1.0) * target.unit() * w.abs())
                .collect();
            let ratio = within(&format!("gradient of input {i}"), got, &want, &allowed)?;
            remember("gradient", case.op, &target.name, &case.variant, ratio);
        }
    }
    Ok(())
}

/// Linear in each input: with integers, `L(x + v) − L(x) = ⟨dx, v⟩` holds exactly, on every device, in its own dtype.
pub fn large_steps(case: &Case, target: &Target) -> Outcome {
    if target.is_reference() {
        return Ok(()); // the finite differences of such rows are this
    }
    let device = target.open()?;
    let values = case.values(true);
    let mut random = Random::of(&case.name());
    let gy = random.small_integers(case.output_len());
    let ran = case.run(target, &device, &values, Some(&gy))?;
    let here = dot(&ran.y, &gy);
    for (i, input) in case.inputs.iter().enumerate() {
        let Some(grad) = &ran.grads[i] else { continue };
        let direction = random.small_integers(input.len());
        let there = loss(case, target, &device, &moved(&values, i, &direction, 1.0), &gy)?;
        let slope = dot(grad, &direction);
        ensure(there - here == slope, || {
            format!("L(x + v) - L(x) = {} but <gradient of input {i}, v> = {slope}", there - here)
        })?;
    }
    Ok(())
}
