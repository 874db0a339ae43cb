//! Models from directories.

use std::fs;
use std::path::Path;

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Host, write_tensors};
use serde_json::{Value, json};

use super::{Llama, config_json, tensors};

type Tensors = Vec<(String, Tensor)>;

/// A directory with a configuration and its tensors, changed by `edit`, in files of at most `per_file` tensors.
fn directory(changes: Value, dtype: DType, per_file: usize, edit: impl FnOnce(&mut Tensors)) -> Dir {
    let device = Device::reference().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = config_json(changes);
    let mut all = tensors(&config, dtype, &device);
    edit(&mut all);
    fs::write(dir.path().join("config.json"), config).unwrap();
    if all.len() <= per_file {
        fs::write(dir.path().join("model.safetensors"), write_tensors(&all).unwrap()).unwrap();
    } else {
        let mut map = serde_json::Map::new();
        for (i, part) in all.chunks(per_file).enumerate() {
            let file = format!("model-{i}.safetensors");
            fs::write(dir.path().join(&file), write_tensors(part).unwrap()).unwrap();
            map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        write_index(dir.path(), Value::Object(map));
    }
    Dir { dir, device }
}

fn write_index(dir: &Path, weight_map: Value) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

struct Dir {
    dir: tempfile::TempDir,
    device: Device,
}

impl Dir {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn load(&self, dtype: Option<DType>) -> crate::Result<Llama> {
        Llama::load(self.path(), &self.device, dtype)
    }

    /// The message of the error.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let message = self.load(None).err().expect("must be refused").to_string();
        assert!(parts.iter().all(|p| message.contains(p)) && !message.contains('\n'), "`{message}` without {parts:?}");
    }
}

fn logits(model: &Llama) -> Vec<f64> {
    model.forward(&model.ids(&[1, 2, 3], 1, 3).unwrap()).unwrap().to_f64().unwrap()
}

#[test]
fn one_file_and_shards_are_the_same_model() {
    let one = directory(json!({}), DType::F32, 100, |_| ());
    let shards = directory(json!({}), DType::F32, 5, |_| ());
    let (a, b) = (one.load(None).unwrap(), shards.load(None).unwrap());
    assert_eq!(logits(&a), logits(&b));
    assert_eq!(a.base_name(), Some(one.path().to_str().unwrap()));
    assert_eq!(a.model_type(), "llama");
}

#[test]
fn dtypes() {
    for (stored, asked, matrices, activations) in [
        (DType::F32, None, DType::F32, DType::F32),
        (DType::F16, None, DType::F32, DType::F32),
        (DType::BF16, None, DType::BF16, DType::F32),
        (DType::BF16, Some(DType::F32), DType::F32, DType::F32),
        (DType::F32, Some(DType::BF16), DType::BF16, DType::F32),
        (DType::F16, Some(DType::F16), DType::F16, DType::F32),
        (DType::F32, Some(DType::F64), DType::F64, DType::F64),
    ] {
        let changes = json!({"attention_bias": true});
        let model = directory(changes, stored, 100, |_| ()).load(asked).unwrap();
        assert_eq!(model.dtype(), activations);
        for (name, tensor) in model.state() {
            let want = if tensor.rank() == 2 { matrices } else { activations };
            assert_eq!(tensor.dtype(), want, "{name} from {stored}, asked for {asked:?}");
        }
        assert!(logits(&model).iter().all(|x| x.is_finite()));
    }
    assert!(directory(json!({}), DType::F32, 100, |_| ()).load(Some(DType::U32)).is_err());
}

#[test]
fn wrong_tensors_are_named() {
    let q = "model.layers.1.self_attn.q_proj.weight";
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::reference().unwrap()).unwrap();
    let edit = |f: &dyn Fn(&mut Tensors)| directory(json!({}), DType::F32, 100, |all| f(all));

    edit(&|all| all.retain(|(name, _)| name != q)).refused(&["model.safetensors", q, "missing"]);
    edit(&|all| all.iter_mut().find(|(name, _)| name == q).unwrap().1 = zeros(&[8, 7])).refused(&[
        "model.safetensors",
        q,
        "[8, 7]",
        "[8, 8]",
    ]);
    edit(&|all| all.push(("model.layers.2.mlp.up_proj.weight".into(), zeros(&[6, 8])))).refused(&[
        "model.safetensors",
        "model.layers.2.mlp.up_proj.weight",
        "does not belong",
    ]);
    edit(&|all| all.push(("model.layers.0.self_attn.q_proj.bias".into(), zeros(&[8])))).refused(&["q_proj.bias"]);
    edit(&|all| all.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), zeros(&[1])))).load(None).unwrap();
}

#[test]
fn a_tied_models_own_head_is_ignored_and_an_untied_one_is_required() {
    let head = |all: &mut Tensors| {
        let zeros = Tensor::zeros(&[11, 8], DType::F32, &Device::reference().unwrap()).unwrap();
        all.push(("lm_head.weight".into(), zeros));
    };
    let tied = json!({"tie_word_embeddings": true});
    let with = directory(tied.clone(), DType::F32, 100, head).load(None).unwrap();
    let without = directory(tied, DType::F32, 100, |_| ()).load(None).unwrap();
    assert!(with.is_tied());
    assert_eq!(logits(&with), logits(&without));
    directory(json!({}), DType::F32, 100, |all| all.retain(|(name, _)| name != "lm_head.weight"))
        .refused(&["lm_head.weight", "missing"]);
}

#[test]
fn wrong_directories_are_named() {
    let dir = directory(json!({}), DType::F32, 100, |_| ());
    let weights = dir.path().join("model.safetensors");
    fs::rename(&weights, dir.path().join("pytorch_model.bin")).unwrap();
    dir.refused(&["safetensors are needed", dir.path().to_str().unwrap()]);
    fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    dir.refused(&["neither model.safetensors nor"]);
    fs::write(&weights, b"").unwrap();
    dir.refused(&["model.safetensors"]);
    fs::write(&weights, [255; 64]).unwrap();
    dir.refused(&["model.safetensors"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    dir.refused(&["config.json"]);
}

#[test]
fn wrong_indices_are_named() {
    let dir = directory(json!({}), DType::F32, 5, |_| ());
    for bad in ["../model-0.safetensors", "/etc/passwd", "sub/m.safetensors", "sub\\m.safetensors", "..", "", "m.bin"] {
        write_index(dir.path(), json!({"lm_head.weight": bad}));
        dir.refused(&["index.json", "weight_map", "lm_head.weight", "beside the index"]);
    }
    for bad in [json!({"lm_head.weight": 3}), json!({}), json!(null)] {
        write_index(dir.path(), bad);
        dir.refused(&["index.json", "weight_map"]);
    }
    write_index(dir.path(), json!({"lm_head.weight": "gone.safetensors"}));
    dir.refused(&["gone.safetensors"]);
    // A shard the index leaves out is not read.
    write_index(dir.path(), json!({"model.embed_tokens.weight": "model-0.safetensors"}));
    dir.refused(&["model-0.safetensors", "missing"]);

    let copy = dir.path().join("copy.safetensors");
    fs::copy(dir.path().join("model-0.safetensors"), copy).unwrap();
    write_index(dir.path(), json!({"a": "model-0.safetensors", "b": "copy.safetensors"}));
    dir.refused(&["is also in", "copy.safetensors", "model-0.safetensors"]);
}
