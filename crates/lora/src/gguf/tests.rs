use proptest::prelude::*;

use super::*;
use crate::testing::Tiny;
use crate::{Init, Module, ModuleMut};

/// The small host as a llama of one query head of 6 and one key head.
struct Llama(Tiny, &'static str);

impl Host for Llama {
    fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        self.0.visit(f);
    }
    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        self.0.visit_mut(f);
    }
    fn output_head(&self) -> Option<&str> {
        self.0.output_head()
    }
    fn device(&self) -> &lowrank_core::Device {
        self.0.device()
    }
    fn dtype(&self) -> DType {
        self.0.dtype()
    }
    fn model_type(&self) -> &str {
        self.1
    }
    fn base_name(&self) -> Option<&str> {
        None
    }
}

const HEADS: Heads = Heads { query: 1, key_value: 1 };

fn llama() -> Llama {
    Llama(Tiny::new(DType::F32), "llama")
}

fn adapter(host: &Llama, targets: &str, change: impl FnOnce(&mut LoraConfig)) -> Adapter {
    let mut config =
        LoraConfig { targets: targets.parse().unwrap(), r: 2, init: Init::BothRandom, ..LoraConfig::default() };
    change(&mut config);
    Adapter::create(host, "x", config, 1).unwrap()
}

/// s·BA, whatever the conventions.
fn delta(a: &Adapter, layer: &str) -> Vec<f64> {
    let p = &a.layers[layer];
    let (ma, mb, k) = (p.a.to_f64().unwrap(), p.b.to_f64().unwrap(), p.a.shape()[1]);
    let at = |i: usize, j: usize| (0..p.rank).map(|q| p.scale * mb[i * p.rank + q] * ma[q * k + j]).sum();
    (0..p.b.shape()[0]).flat_map(|i| (0..k).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
}

#[test]
fn what_is_written_is_read_with_the_scale_that_llama_cpp_uses() {
    let host = llama();
    let a = adapter(&host, "q_proj,v_proj,embed_tokens,lm_head", |c| {
        c.use_rslora = true;
        c.rank_pattern = [("v_proj".into(), 3)].into();
        c.alpha_pattern = [("lm_head".into(), 5.0)].into();
    });
    let bytes = to_bytes(&a, &host, HEADS, DType::F32).unwrap();
    let again = from_bytes("y", "a.gguf", &bytes, &host, HEADS).unwrap();
    assert_eq!(again.layers.len(), 6);
    for (layer, pair) in &again.layers {
        assert_eq!((pair.rank, pair.scale), (a.layers[layer].rank, 16.0 / pair.rank as f64), "{layer}");
        for (x, y) in delta(&again, layer).iter().zip(delta(&a, layer)) {
            assert!((x - y).abs() < 1e-5 * y.abs().max(1.0), "{layer}: {x} {y}");
        }
    }
    // Plain LoRA keeps its bits.
    let a = adapter(&host, "all-linear", |_| ());
    let bytes = to_bytes(&a, &host, HEADS, DType::F32).unwrap();
    let again = from_bytes("y", "a.gguf", &bytes, &host, HEADS).unwrap();
    for (layer, pair) in &again.layers {
        assert_eq!(pair.b.to_f64().unwrap(), a.layers[layer].b.to_f64().unwrap());
        assert_eq!(pair.a.to_f64().unwrap(), a.layers[layer].a.to_f64().unwrap());
    }
}

/// llama.cpp's converter: `w.reshape(heads, 2, rows/heads/2, …).swapaxes(1, 2)`.
#[test]
fn rows_of_q_are_interleaved_in_llama_models_only() {
    let b: Vec<f64> = (0..8).map(f64::from).collect();
    let of = |model_type, layer, query| {
        let host = Llama(Tiny::new(DType::F32), model_type);
        let layout = Layout::of(&host, Heads { query, key_value: 1 }).unwrap();
        let there = layout.reordered(layer, &b, 1).unwrap();
        assert_eq!(layout.restored(layer, &there, 1).unwrap(), b);
        there
    };
    assert_eq!(of("llama", "a.q_proj", 1), [0., 4., 1., 5., 2., 6., 3., 7.]);
    assert_eq!(of("mistral", "a.q_proj", 2), [0., 2., 1., 3., 4., 6., 5., 7.]);
    assert_eq!(of("llama", "a.k_proj", 2), [0., 4., 1., 5., 2., 6., 3., 7.]);
    assert_eq!(of("llama", "a.v_proj", 1), b);
    assert_eq!(of("qwen2", "a.q_proj", 1), b);
}

#[test]
fn what_does_not_fit_is_named() {
    let host = llama();
    let write = |a: &Adapter, dtype| to_bytes(a, &host, HEADS, dtype).map_err(|e| e.to_string());
    let dora = adapter(&host, "q_proj", |c| c.use_dora = true);
    assert!(write(&dora, DType::F32).unwrap_err().contains("is DoRA"));
    let large = adapter(&host, "q_proj", |c| (c.alpha, c.use_rslora) = (1.0, true));
    let b = &large.layers["model.layers.0.self_attn.q_proj"].b;
    b.set(&vec![60_000.0f32; b.len()]).unwrap();
    let e = write(&large, DType::F16).unwrap_err();
    assert!(e.contains("blk.0.attn_q.weight.lora_b: element 0") && e.contains("range of f16"), "{e}");
    assert!(write(&large, DType::F32).is_ok());
    assert!(write(&large, DType::BF16).unwrap_err().contains("dtype"));

    let a = adapter(&host, "q_proj", |_| ());
    let bytes = write(&a, DType::F32).unwrap();
    let read = |bytes: &[u8], host: &Llama| from_bytes("y", "a.gguf", bytes, host, HEADS).unwrap_err().to_string();
    let e = read(&bytes, &Llama(Tiny::new(DType::F32), "qwen2"));
    assert!(e.starts_with("a.gguf: general.architecture is `llama`, not `qwen2`"), "{e}");
    let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let mut other = bytes.clone();
    // Both halves of the pair.
    for half in [&b"blk.0.attn_q.weight.lora_a"[..], b"blk.0.attn_q.weight.lora_b"] {
        other[find(half) + 4] = b'7';
    }
    let e = read(&other, &host);
    assert!(e.contains("blk.7.attn_q.weight.lora_") && e.contains("the model has no such layer"), "{e}");
    // A dimension of A: another model's.
    let mut other = bytes.clone();
    let at = find(b"blk.0.attn_q.weight.lora_a") + 26 + 4;
    other[at] = 5;
    assert!(read(&other, &host).contains("has shape [2, 5], the model's layer needs [2, 6]"));
    other[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(read(&other, &host).contains("overflows"));
    assert!(read(b"GGML", &host).contains("is no GGUF file"));
    assert!(read(&bytes[..bytes.len() - 40], &host).contains("lie outside"));
    assert!(read(&[&bytes[..8], &[0xff; 16]].concat(), &host).contains("ends within"));
    assert!(to_bytes(&a, &Llama(Tiny::new(DType::F32), "gpt2"), HEADS, DType::F32).is_err());
}

proptest! {
    #[test]
    fn damaged_files_do_not_panic(edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6), cut in any::<u16>()) {
        let host = llama();
        let mut bytes = to_bytes(&adapter(&host, "v_proj", |_| ()), &host, HEADS, DType::F16).unwrap();
        for (at, byte) in edits {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - usize::from(cut) % 40);
        let _ = from_bytes("y", "a.gguf", &bytes, &host, HEADS);
    }
}
