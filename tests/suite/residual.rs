//! An adapter over a residual base as PEFT left it, carried over to the original base: PEFT's logits.
//!
//! `tests/golden/make_residual.py` made the values with PEFT 0.21 on the model in `crates/cli/data/glass-en`, for every init
//! that splits the base and that PEFT can make without other packages (corda-kpm takes off the smallest triples, the others
//! the largest or the gradient's). loftq's residual base is a quantised one: it is refused by name.

use std::path::PathBuf;

use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, attach, peft, write_tensors};
use lowrank_models::Llama;
use safetensors::SafeTensors;

use crate::devices::{Checks, Target};
use crate::report::{Outcome, ensure, remember, within};

/// The trials of this module.
pub const CHECKS: Checks = &[
    ("pissa/start", |t| start("pissa", t)),
    ("pissa/base", |t| base("pissa", t)),
    ("olora/start", |t| start("olora", t)),
    ("olora/base", |t| base("olora", t)),
    ("corda-ipm/start", |t| start("corda-ipm", t)),
    ("corda-ipm/base", |t| base("corda-ipm", t)),
    ("corda-kpm/start", |t| start("corda-kpm", t)),
    ("corda-kpm/base", |t| base("corda-kpm", t)),
    ("lora_ga/start", |t| start("lora_ga", t)),
    ("lora_ga/base", |t| base("lora_ga", t)),
];

fn at(init: &str, part: &str) -> PathBuf {
    crate::golden::root("tests/golden").join(init).join(part)
}

fn start(init: &'static str, target: &Target) -> Outcome {
    let mut model = crate::golden::glass(&target.open()?)?;
    let trained = at(init, "trained");
    let e = peft::load(&trained, &model).map(drop).err().map(|e| e.to_string()).unwrap_or_default();
    let (name, _) = init.split_once('-').unwrap_or((init, ""));
    let refused = e.contains(&format!("init_lora_weights \"{name}\"")) && e.contains("residual base");
    ensure(refused, || format!("loaded: {e}"))?;
    let (adapter, _) = peft::load_residual(&trained, peft::Start::Adapter(&at(init, "start")), &model)?;
    compare(&mut model, &adapter, (init, "from its start"), target)
}

fn base(init: &'static str, target: &Target) -> Outcome {
    let device = target.open()?;
    let mut model = crate::golden::glass(&device)?;
    let residual = residual(init, &device, &model)?;
    let (adapter, splits) = peft::load_residual(&at(init, "trained"), peft::Start::Base(&residual), &model)?;
    ensure(splits.len() == 4, || format!("{splits:?}"))?;
    compare(&mut model, &adapter, (init, "from both bases"), target)?;
    let (small, lost) = adapter.recompressed()?;
    ensure(small.config.r == 4 && lost.iter().all(|l| l.lost > 0.0 && l.lost < l.norm), || format!("{lost:?}"))
}

/// The model with W − s B₀A₀ in the place of each W of a q_proj, by plain loops.
fn residual(init: &str, device: &Device, model: &Llama) -> Result<Llama, libtest_mimic::Failed> {
    let bytes = std::fs::read(at(init, "start/adapter_model.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let values = |name: &str| -> Result<Vec<f64>, libtest_mimic::Failed> {
        let view = file.tensor(&format!("base_model.model.{name}"))?;
        Ok(bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect())
    };
    let mut state = Vec::new();
    for (name, tensor) in model.state() {
        let layer = name.strip_suffix(".weight").filter(|l| l.ends_with("q_proj"));
        let tensor = match (layer, tensor.shape()) {
            (Some(layer), &[n, k]) => {
                let (a, b) = (values(&format!("{layer}.lora_A.weight"))?, values(&format!("{layer}.lora_B.weight"))?);
                let mut w = tensor.to_f64()?;
                for i in 0..n {
                    for j in 0..k {
                        // α/r = 8/4.
                        w[i * k + j] -= 2.0 * (0..4).map(|p| b[i * 4 + p] * a[p * k + j]).sum::<f64>();
                    }
                }
                Tensor::from_f64(&w, &[n, k], DType::F32, device)?
            }
            _ => tensor,
        };
        state.push((name, tensor));
    }
    let weights = write_tensors(&state)?;
    let config = model.config_json_for_state()?;
    Ok(Llama::from_files("config.json", &config, &[("residual".to_string(), &weights[..])], device, DType::F32)?)
}

fn compare(
    model: &mut Llama,
    adapter: &Adapter,
    (init, how): (&'static str, &'static str),
    target: &Target,
) -> Outcome {
    attach(model, adapter)?;
    let bytes = std::fs::read(at(init, "golden.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let ids = bytemuck::pod_collect_to_vec::<u8, i64>(file.tensor("input_ids")?.data());
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let want = bytemuck::pod_collect_to_vec::<u8, f32>(file.tensor("logits")?.data());
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    let got = no_grad(|| model.forward(&model.ids(&ids, 1, ids.len())?))?.to_f64()?;
    let ratio = within(how, &got, &want, &vec![1e-4; want.len()])?;
    remember("residual", init, &target.name, how, ratio);
    Ok(())
}
