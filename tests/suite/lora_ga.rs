//! LoRA-GA against an implementation in torch that shares nothing with this one: `tests/golden/make_lora_ga.py`.
//!
//! Singular vectors have no sign, and equal singular values no vectors, so A and B are compared by what they span with their
//! lengths, AᵀA and BBᵀ, and by where the first step goes, BBᵀG + GAᵀA. The latter is the same for every way to share out
//! the leading 2r vectors, so it holds for random draws and equal values too. "Random" draws others here than there.

use std::collections::HashMap;

use libtest_mimic::Failed;
use lowrank_core::{DType, Tensor};
use lowrank_lora::linalg::Matrix;
use lowrank_lora::{Adapter, Direction, Estimator, GaScale, Init, LoraConfig, LoraGa, Targets, lora_ga};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::devices::{Checks, Target};
use crate::report::{Outcome, ensure, remember};

/// The trials of this module.
pub const CHECKS: Checks = &[("authors/planted", planted), ("authors/model", model)];

/// Distances that f32 explains, relative to the matrix.
const ROUNDING: f64 = 1e-4;

fn file(name: &str) -> Result<Vec<u8>, Failed> {
    Ok(std::fs::read(crate::golden::root("tests/golden/lora-ga-authors").join(name))?)
}

fn matrix(file: &SafeTensors<'_>, name: &str) -> Result<Matrix, Failed> {
    let view = file.tensor(name)?;
    let values = bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect();
    Ok(Matrix::new(view.shape()[0], view.shape()[1], values)?)
}

/// ‖x − y‖ / ‖y‖.
fn distance(x: &Matrix, y: &Matrix) -> f64 {
    let square: f64 = x.data.iter().zip(&y.data).map(|(x, y)| (x - y).powi(2)).sum();
    (square / y.squared_norm()).sqrt()
}

/// AᵀA and BBᵀ.
fn spans(a: &Matrix, b: &Matrix) -> [Matrix; 2] {
    [a.transposed().times(a), b.times(&b.transposed())]
}

/// BBᵀG + GAᵀA.
fn first_step(a: &Matrix, b: &Matrix, g: &Matrix) -> Matrix {
    let [of_a, of_b] = spans(a, b);
    let (one, two) = (of_b.times(g), g.times(&of_a));
    Matrix { data: one.data.iter().zip(&two.data).map(|(x, y)| x + y).collect(), ..one }
}

fn planted(target: &Target) -> Outcome {
    let device = target.open()?;
    let bytes = file("planted.safetensors")?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let settings: &HashMap<String, String> = header.metadata().as_ref().ok_or("no metadata")?;
    let file = SafeTensors::deserialize(&bytes)?;
    for i in 0..settings.len() {
        let case: Value = serde_json::from_str(&settings[&i.to_string()])?;
        let number = |key: &str| case[key].as_f64().unwrap_or(f64::NAN);
        let (r, s, g) = (number("r") as usize, number("s"), matrix(&file, &format!("{i}.G"))?);
        let gradient = g.to_tensor(DType::F32, &device)?;
        let weight = match file.tensor(&format!("{i}.W")) {
            Ok(_) => matrix(&file, &format!("{i}.W"))?.to_tensor(DType::F32, &device)?,
            Err(_) => Tensor::full(0.02, gradient.shape(), DType::F32, &device)?,
        };
        let options = LoraGa {
            direction: match case["direction"].as_str() {
                Some("ArB2r") => Direction::ArB2r,
                Some("A2rBr") => Direction::A2rBr,
                Some("ArBr") => Direction::ArBr,
                _ => Direction::Random,
            },
            scale: match case["scale"].as_str() {
                Some("stable") => GaScale::Stable,
                Some("gd") => GaScale::Gd,
                Some("unit") => GaScale::Unit,
                _ => GaScale::WeightSvd,
            },
            gamma: number("gamma"),
            norm_clip: case["clip"] == true,
            ..LoraGa::default()
        };
        let start = lora_ga::from_gradient(&gradient, &weight, r, s, &options, "layer", 7);
        if number("rank") < 2.0 * r as f64 {
            // The authors' code goes on with vectors of rounding errors.
            let e = start.map(drop).err().map(|e| e.to_string()).unwrap_or_default();
            let want = format!("needs 2r = {} singular vectors, but the gradient has rank {}", 2 * r, number("rank"));
            ensure(e.contains(&want), || format!("{case}: {e}"))?;
            continue;
        }
        let start = start?;
        let (a, b) = (matrix(&file, &format!("{i}.A"))?, matrix(&file, &format!("{i}.B"))?);
        // With 4r columns the sketches of a slow spectrum are approximations, theirs as well as ours.
        let allowed = ROUNDING.max(2.0 * number("slack"));
        let mut worst = distance(&first_step(&start.a, &start.b, &g), &first_step(&a, &b, &g));
        if options.direction != Direction::Random && number("gap") > 0.0 {
            for (got, want) in spans(&start.a, &start.b).iter().zip(&spans(&a, &b)) {
                worst = worst.max(distance(got, want));
            }
        }
        ensure(worst <= allowed, || format!("{case}: off by {worst:.2e}"))?;
        ensure((start.first_step.best - number("best")).abs() < 1e-3, || format!("{case}: {:?}", start.first_step))?;
        remember("lora-ga", "authors", &target.name, &format!("case {i}"), worst / allowed);
    }
    ensure(settings.len() == 22, || format!("{} cases", settings.len()))
}

/// The gradient of 4 micro-batches on the small Llama, by both estimators.
fn model(target: &Target) -> Outcome {
    let device = target.open()?;
    let bytes = file("model.safetensors")?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let slack: &HashMap<String, String> = header.metadata().as_ref().ok_or("no metadata")?;
    let file = SafeTensors::deserialize(&bytes)?;
    let ids = bytemuck::pod_collect_to_vec::<u8, i64>(file.tensor("input_ids")?.data());
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let layers = ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"];
    // As many products with the gradient as svd_lowrank's 4 iterations have.
    for estimator in [Estimator::Full { alive: 1 }, Estimator::Full { alive: 2 }, Estimator::Streamed { passes: 10 }] {
        let mut model = crate::golden::glass(&device)?;
        let options = LoraGa { estimator, batches: 4, ..LoraGa::default() };
        let config = LoraConfig {
            r: 4,
            alpha: 8.0,
            targets: Targets::List(layers.map(String::from).to_vec()),
            init: Init::LoraGa(options),
            allow_partial: true,
            ..LoraConfig::default()
        };
        let mut run = |model: &lowrank_models::Llama, i: usize| {
            let row = &ids[25 * i..25 * (i + 1)];
            model.loss(&model.ids(&row[..24], 1, 24)?, &model.ids(&row[1..], 1, 24)?.reshape(&[24])?, 24.0)
        };
        let (adapter, _) = Adapter::create_with_data(&mut model, "default", config, 0, &mut run)?;
        ensure(adapter.layers.len() == 2, || format!("{:?}", adapter.layers.keys()))?;
        for layer in layers {
            let pair = &adapter.layers[layer];
            let got = spans(&Matrix::from_tensor(&pair.a)?, &Matrix::from_tensor(&pair.b)?);
            let want = spans(&matrix(&file, &format!("{layer}.A"))?, &matrix(&file, &format!("{layer}.B"))?);
            // A real gradient's tail is flat: again, theirs is an approximation as well.
            let allowed = 3.0 * slack[layer].parse::<f64>()?;
            for (got, want) in got.iter().zip(&want) {
                let off = distance(got, want);
                ensure(off <= allowed, || format!("{estimator:?} {layer}: off by {off:.2e}"))?;
                remember("lora-ga", "model", &target.name, layer, off / allowed);
            }
        }
    }
    Ok(())
}
