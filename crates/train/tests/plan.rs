//! What a plan says, against what a run does.

mod common;

use common::{adapter, alone, config, dataset, list, model};
use lowrank_core::DType;
use lowrank_lora::{Host, Init, LoraConfig, Method};
use lowrank_train::{Length, Options, Plan};

fn method(method: Method, targets: &str) -> LoraConfig {
    LoraConfig { method, targets: targets.parse().unwrap(), ..LoraConfig::default() }
}

fn options(batch: usize, grad_accum: usize, eval_batch: usize) -> Options {
    Options { batch, grad_accum, eval_batch, length: Length::Steps(2), ..Options::default() }
}

/// Predicted and measured peak of a run of two steps, in bytes.
fn peaks([dtype, activations]: [DType; 2], config: LoraConfig, seq_len: usize, options: &Options) -> (f64, f64) {
    let mut model = model(dtype);
    model.device().set_activations(activations).unwrap();
    let data = dataset(&model, seq_len);
    let adapter = adapter(&model, config, 0);
    let plan = Plan::new(&model, &adapter, &data, options);
    let summary = alone(&mut model, &adapter, &data, options).unwrap();
    (plan.memory.total() as f64, summary.peak_bytes as f64)
}

#[test]
fn predicted_memory_is_what_is_measured() {
    let targets = |t: &str, r: usize| LoraConfig { targets: list(t), ..config(r) };
    let saved = |name: &str| LoraConfig { modules_to_save: vec![name.into()], ..config(4) };
    let cases: Vec<(&str, DType, LoraConfig, usize, Options)> = vec![
        ("default", DType::F32, config(8), 128, options(16, 1, 16)),
        ("small batch", DType::F32, config(8), 32, options(1, 1, 1)),
        ("rank 64", DType::F32, config(64), 64, options(4, 1, 4)),
        ("rank 1", DType::F32, config(1), 128, options(8, 1, 8)),
        ("q, v", DType::F32, targets("q_proj,v_proj", 8), 64, options(8, 1, 8)),
        ("down", DType::F32, targets("down_proj", 8), 64, options(8, 1, 8)),
        ("embedding, head", DType::F32, targets("embed_tokens,lm_head,o_proj", 8), 64, options(4, 1, 4)),
        ("bf16", DType::BF16, config(8), 64, options(4, 1, 4)),
        ("accumulated", DType::F32, config(32), 64, options(4, 3, 4)),
        ("large evaluation", DType::F32, config(8), 64, options(1, 1, 16)),
        ("norm whole", DType::F32, saved("model.norm"), 64, options(4, 1, 4)),
        ("head whole", DType::BF16, saved("lm_head"), 64, options(4, 2, 4)),
        ("dropout", DType::F32, LoraConfig { dropout: 0.1, ..config(8) }, 64, options(4, 1, 4)),
        ("olora", DType::F32, LoraConfig { init: Init::Olora, ..config(8) }, 64, options(4, 1, 4)),
        ("olora, one example", DType::F32, LoraConfig { init: Init::Olora, ..config(32) }, 16, options(1, 2, 1)),
        (
            "olora, dropout",
            DType::F32,
            LoraConfig { init: Init::Olora, dropout: 0.1, ..config(8) },
            64,
            options(4, 1, 4),
        ),
        ("DoRA", DType::F32, LoraConfig { use_dora: true, ..config(8) }, 64, options(4, 1, 4)),
        ("DoRA, dropout", DType::F32, LoraConfig { use_dora: true, dropout: 0.1, ..config(8) }, 64, options(4, 2, 4)),
        ("A frozen", DType::F32, LoraConfig { freeze_a: true, ..config(32) }, 64, options(4, 2, 4)),
        ("full", DType::F32, method(Method::Full, "all-linear"), 64, options(4, 1, 4)),
        ("full, head too", DType::BF16, method(Method::Full, "o_proj,down_proj,lm_head"), 64, options(4, 2, 4)),
        ("bottleneck", DType::F32, method(Method::Bottleneck, "o_proj,down_proj"), 64, options(4, 1, 4)),
        ("bottlenecks everywhere", DType::F32, method(Method::Bottleneck, "all-linear"), 64, options(4, 2, 4)),
        ("odd sizes", DType::F32, config(2), 100, options(3, 2, 5)),
    ];
    let mut worst: f64 = 0.0;
    for (name, dtype, config, seq_len, options) in cases {
        for activations in [DType::F32, DType::BF16] {
            let (predicted, measured) = peaks([dtype, activations], config.clone(), seq_len, &options);
            let error = predicted / measured - 1.0;
            println!(
                "{name:22} {activations:4} predicted {predicted:>10} measured {measured:>10} {:+.3} %",
                100.0 * error
            );
            assert!(error.abs() < 0.01, "{name}, {activations}: predicted {predicted}, measured {measured}");
            worst = worst.max(error.abs());
        }
    }
    println!("worst {:.2} %", 100.0 * worst);
}

/// 2mnk + 2mr(n+k) and 2mnk + 4mr(n+k) for the seven linears of four blocks, the head and attention, by hand; no
/// gradient is wanted of the first block's input.
#[test]
fn flops_by_hand() {
    let model = model(DType::F32);
    let data = dataset(&model, 64);
    let plan = Plan::new(&model, &adapter(&model, config(8), 0), &data, &options(2, 3, 1));
    let (m, r) = (2 * 64, 8);
    let layers = [(128, 128), (64, 128), (64, 128), (128, 128), (341, 128), (341, 128), (128, 341)];
    let (mut forward, mut backward) = (0, 0);
    for _ in 0..4 {
        for (n, k) in layers {
            forward += 2 * m * n * k + 2 * m * r * (n + k);
            backward += 2 * m * n * k + 4 * m * r * (n + k);
        }
        // Two products forward, four backward, over the pairs that a causal mask leaves: 4 heads of 32.
        let pairs = 2 * 4 * (64 * 65 / 2);
        forward += 2 * 2 * pairs * 32;
        backward += 4 * 2 * pairs * 32;
    }
    // The head is frozen: its product forward, the gradient of its input backward.
    forward += 2 * m * 1024 * 128;
    backward += 2 * m * 1024 * 128;
    // dX of q, k and v of the first block, with its low-rank part dS A.
    for (n, k) in &layers[..3] {
        backward -= 2 * m * n * k + 2 * m * r * k;
    }
    assert_eq!((plan.flops.forward, plan.flops.backward), (3 * forward as u64, 3 * backward as u64));
}

#[test]
fn families_say_what_is_adapted() {
    let model = model(DType::F32);
    let data = dataset(&model, 64);
    let config = LoraConfig {
        targets: list("q_proj,v_proj"),
        layers_to_transform: Some(vec![0, 2]),
        modules_to_save: vec!["model.norm".into()],
        ..config(4)
    };
    let plan = Plan::new(&model, &adapter(&model, config, 0), &data, &options(2, 1, 1));
    let of = |name: &str, matched: bool| {
        plan.families.iter().find(|f| f.name.ends_with(name) && f.matched() == matched).map(|f| (f.count, f.trainable))
    };
    assert_eq!(of("q_proj", true), Some((2, 2 * 4 * (128 + 128))));
    assert_eq!(of("q_proj", false), Some((2, 0)));
    assert_eq!(of("v_proj", true), Some((2, 2 * 4 * (128 + 64))));
    assert_eq!(of("up_proj", false), Some((4, 0)));
    assert_eq!(of("model.norm", true), Some((1, 128)));
    assert_eq!((of("embed_tokens", false), of("lm_head", false)), (Some((1, 0)), Some((1, 0))));
    assert_eq!(of("input_layernorm", false), None);
    assert_eq!(plan.families.iter().map(|f| f.trainable).sum::<usize>(), plan.trainable);
}
