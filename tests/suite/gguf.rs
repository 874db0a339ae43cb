//! A GGUF adapter of the small Llama, read by the PyPI package `gguf`, which knows nothing of lowrank.
//!
//! `LOWRANK_PYTHON` names the interpreter (else `python3`). Where it has no such package, the trial is shown as ignored.

use std::process::Command;

use libtest_mimic::Trial;
use lowrank_core::{DType, Device};
use lowrank_lora::{Adapter, Init, LoraConfig, gguf};

use crate::report::{Outcome, ensure, within};

/// Prints fields, and for every tensor its name, its shape in ggml's order, and its elements.
const SCRIPT: &str = "
import sys
from gguf import GGUFReader
r = GGUFReader(sys.argv[1])
for key in ['general.architecture', 'general.type', 'adapter.type', 'adapter.lora.alpha']:
    print('field', key, r.fields[key].contents())
for t in r.tensors:
    print('tensor', t.name, *t.shape)
    print(*[repr(float(x)) for x in t.data.flatten()])
";

fn python() -> String {
    std::env::var("LOWRANK_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// The trial of this module.
pub fn trial() -> Trial {
    let present = Command::new(python()).args(["-c", "import gguf"]).output().is_ok_and(|o| o.status.success());
    Trial::test("gguf/independent-reader", independent_reader).with_ignored_flag(!present)
}

fn independent_reader() -> Outcome {
    let model = crate::golden::glass(&Device::from_name("cpu")?)?;
    let (heads, head_dim) = (model.config().num_attention_heads, model.config().head_dim);
    let config = LoraConfig {
        r: 4,
        alpha: 6.0,
        use_rslora: true,
        targets: "q_proj,v_proj,embed_tokens".parse()?,
        rank_pattern: [("v_proj".to_string(), 2)].into(),
        init: Init::BothRandom,
        ..LoraConfig::default()
    };
    let adapter = Adapter::create(&model, "default", config, 3)?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.gguf");
    let counts = gguf::Heads { query: heads, key_value: model.config().num_key_value_heads };
    gguf::save(&adapter, &path, &model, counts, DType::F32)?;
    let out = Command::new(python()).args(["-c", SCRIPT]).arg(&path).output()?;
    ensure(out.status.success(), || String::from_utf8_lossy(&out.stderr).into_owned())?;
    let text = String::from_utf8(out.stdout)?;
    let fields: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("field ")).collect();
    let want = ["general.architecture llama", "general.type adapter", "adapter.type lora", "adapter.lora.alpha 6.0"];
    ensure(fields == want, || format!("fields are {fields:?}"))?;
    let tensor = |name: &str| -> Result<(Vec<usize>, Vec<f64>), libtest_mimic::Failed> {
        let mut lines = text.lines().skip_while(|l| !l.starts_with(&format!("tensor {name} ")));
        let (Some(head), Some(values)) = (lines.next(), lines.next()) else { return Err(format!("no {name}").into()) };
        let shape = head.split(' ').skip(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok((shape, values.split(' ').map(str::parse).collect::<Result<_, _>>()?))
    };
    let total = text.lines().filter(|l| l.starts_with("tensor ")).count();
    ensure(total == 2 * adapter.layers.len(), || format!("{total} tensors"))?;
    for (layer, name) in [("self_attn.q_proj", "attn_q"), ("self_attn.v_proj", "attn_v")] {
        let pair = &adapter.layers[&format!("model.layers.1.{layer}")];
        let (r, [n, k]) = (pair.rank, [pair.b.shape()[0], pair.a.shape()[1]]);
        let (a_shape, a) = tensor(&format!("blk.1.{name}.weight.lora_a"))?;
        let (b_shape, b) = tensor(&format!("blk.1.{name}.weight.lora_b"))?;
        ensure(a_shape == [k, r] && b_shape == [r, n], || format!("{name}: shapes {a_shape:?} {b_shape:?}"))?;
        // llama.cpp: alpha / r times B A, its rows in (head, i, half) for q.
        let (ours_a, ours_b) = (pair.a.to_f64()?, pair.b.to_f64()?);
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for row in 0..n {
            let (head, within) = (row / head_dim, row % head_dim);
            let own = match name {
                "attn_q" => head * head_dim + within % 2 * (head_dim / 2) + within / 2,
                _ => row,
            };
            for j in 0..k {
                got.push((0..r).map(|p| 6.0 / r as f64 * b[row * r + p] * a[p * k + j]).sum::<f64>());
                let s = 6.0 / (r as f64).sqrt();
                want.push((0..r).map(|p| s * ours_b[own * r + p] * ours_a[p * k + j]).sum::<f64>());
            }
        }
        within(name, &got, &want, &vec![1e-5; want.len()])?;
    }
    let pair = &adapter.layers["model.embed_tokens"];
    let (a_shape, a) = tensor("token_embd.weight.lora_a")?;
    let (vocab, ours) = (pair.a.shape()[1], pair.a.to_f64()?);
    ensure(a_shape == [4, vocab], || format!("token_embd: {a_shape:?}"))?;
    ensure((0..vocab * 4).all(|i| a[i] == ours[i % 4 * vocab + i / 4]), || "token_embd: A is not transposed".into())
}
