//! Adapters trained together equal adapters trained alone, bit for bit.

mod common;

use common::{GO_ON, adapter, alone, config, dataset, list, model};
use lowrank_core::DType;
use lowrank_core::optim::Schedule;
use lowrank_lora::{Adapter, Host, Init, LoraConfig, Method, Targets, detach};
use lowrank_models::Llama;
use lowrank_train::{Error, Length, Member, Observer, Options, start_adapter, train_many};

fn options(steps: usize, lr: f64, seed: u64) -> Options {
    Options { batch: 2, eval_batch: 4, length: Length::Steps(steps), lr, seed, ..Options::default() }
}

/// Three that differ in everything that can differ.
fn settings() -> Vec<(LoraConfig, Options)> {
    vec![
        (config(4), options(5, 1e-3, 0)),
        (
            LoraConfig { dropout: 0.2, init: Init::Gaussian, targets: list("q_proj,v_proj"), ..config(8) },
            Options { grad_accum: 2, schedule: Schedule::Cosine, warmup: 1, ..options(3, 3e-3, 7) },
        ),
        (
            LoraConfig { dropout: 0.1, modules_to_save: vec!["model.norm".into()], ..config(1) },
            Options { batch: 3, weight_decay: 0.1, clip: None, ..options(4, 1e-2, 1) },
        ),
    ]
}

fn fresh(model: &Llama) -> Vec<(Adapter, Options)> {
    let one = |(config, options): (LoraConfig, Options)| (adapter(model, config, options.seed), options);
    settings().into_iter().map(one).collect()
}

fn bits(adapter: &Adapter) -> Vec<(String, Vec<u32>)> {
    let bits = |t: &lowrank_core::Tensor| t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
    adapter.parameters().iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

#[test]
fn each_equals_itself_alone() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let mut want = Vec::new();
    for (adapter, options) in fresh(&model) {
        let summary = alone(&mut model, &adapter, &data, &options).unwrap();
        want.push((bits(&adapter), summary.val_loss_before, summary.val_loss_after));
    }
    let all = fresh(&model);
    let members: Vec<Member<'_>> =
        all.iter().map(|(adapter, options)| Member { adapter, data: &data, options }).collect();
    let live = model.device().stats().bytes_live;
    let (mut a, mut b, mut c) = ((), (), ());
    let observers: &mut [&mut dyn Observer] = &mut [&mut a, &mut b, &mut c];
    let summaries = train_many(&mut model, &members, observers, 8, &GO_ON).unwrap();
    for ((want, (adapter, options)), summary) in want.iter().zip(&all).zip(&summaries) {
        let summary = summary.as_ref().unwrap();
        assert!(bits(adapter) == want.0, "seed {}: other bits than alone", options.seed);
        assert_eq!((summary.val_loss_before, summary.val_loss_after), (want.1, want.2));
        assert!(!summary.interrupted);
    }
    // One base: three runs need no second copy of its 3.4 MB, and activations of one.
    let peak = summaries[0].as_ref().unwrap().peak_bytes;
    assert!(peak - live < 8 << 20, "{peak} over {live}");
}

/// Every init there is, a new one does not compile without a line here, and every variant and method: all of them together
/// in one run, each with another learning rate, seed and batch.
#[test]
fn every_init_and_method_equals_itself_alone() {
    let known = |init: &Init| match init {
        Init::Default | Init::Gaussian | Init::BothZero | Init::BothRandom | Init::Orthogonal => (),
        Init::Pissa { .. } | Init::Olora | Init::Eva { .. } | Init::LoraGa(_) => (),
    };
    let inits = [
        "default",
        "gaussian",
        "both-zero",
        "both-random",
        "orthogonal",
        "pissa",
        "pissa:niter=4",
        "olora",
        "eva:batches=2",
        "lora-ga:batches=2",
        "lora-ga:batches=2,direction=A2rBr,scale=gd",
        "lora-ga:batches=2,estimator=streamed,passes=2",
    ];
    let with_init = |init: &str| LoraConfig { init: init.parse().unwrap(), ..config(4) };
    let mut configs: Vec<LoraConfig> = inits.map(with_init).to_vec();
    configs.iter().for_each(|c| known(&c.init));
    configs.extend([
        LoraConfig { use_dora: true, dropout: 0.1, ..config(4) },
        LoraConfig { use_rslora: true, init: "pissa".parse().unwrap(), dropout: 0.1, ..config(2) },
        LoraConfig { freeze_a: true, ..config(4) },
        LoraConfig { targets: list("embed_tokens,lm_head"), ..config(4) },
        LoraConfig { method: Method::Full, ..LoraConfig::default() },
        LoraConfig { method: Method::Bottleneck, ..config(4) },
    ]);
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let narrow = |config: LoraConfig| match &config.targets {
        Targets::AllLinear => LoraConfig { targets: list("q_proj,down_proj"), ..config },
        _ => config,
    };
    let configs: Vec<LoraConfig> = configs.into_iter().map(narrow).collect();
    let fresh = |model: &mut Llama| -> Vec<(Adapter, Options)> {
        let one = |(i, config): (usize, &LoraConfig)| {
            let options = Options {
                batch: 1 + i % 3,
                length: Length::Steps(2),
                lr: 1e-3 * (1 + i % 4) as f64,
                seed: i as u64,
                lora_plus: if i == 1 || i == 6 { 4.0 } else { 1.0 },
                ..Options::default()
            };
            (start_adapter(model, config.clone(), &data, options.seed, &GO_ON).unwrap().0, options)
        };
        configs.iter().enumerate().map(one).collect()
    };
    let mut want = Vec::new();
    for (adapter, options) in fresh(&mut model) {
        let start = bits(&adapter);
        alone(&mut model, &adapter, &data, &options).unwrap();
        // A and B that are both zero never move; everything else does.
        assert_eq!(bits(&adapter) == start, adapter.config.init == Init::BothZero, "{:?}", adapter.config);
        want.push(bits(&adapter));
        detach(&mut model);
    }
    let all = fresh(&mut model);
    let members: Vec<Member<'_>> =
        all.iter().map(|(adapter, options)| Member { adapter, data: &data, options }).collect();
    let mut silent = vec![(); members.len()];
    let mut observers: Vec<&mut dyn Observer> = silent.iter_mut().map(|o| o as &mut dyn Observer).collect();
    let summaries = train_many(&mut model, &members, &mut observers, 4, &GO_ON).unwrap();
    for ((want, (adapter, _)), summary) in want.iter().zip(&all).zip(summaries) {
        summary.unwrap();
        assert!(bits(adapter) == *want, "{:?}: other bits than alone", adapter.config);
    }
}

#[test]
fn one_that_diverges_leaves_the_others_alone() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let (good, options) = fresh(&model).remove(0);
    alone(&mut model, &good, &data, &options).unwrap();
    let (bad, good_again) = (adapter(&model, config(4), 0), adapter(&model, config(4), 0));
    let wild = Options { lr: 1e30, clip: None, ..options.clone() };
    let members = [
        Member { adapter: &bad, data: &data, options: &wild },
        Member { adapter: &good_again, data: &data, options: &options },
    ];
    let (mut a, mut b) = ((), ());
    let summaries = train_many(&mut model, &members, &mut [&mut a, &mut b], 8, &GO_ON).unwrap();
    assert!(matches!(summaries[0], Err(Error::Diverged { .. })), "{:?}", summaries[0]);
    assert!(summaries[1].is_ok() && bits(&good) == bits(&good_again));
}

#[test]
fn bad_members_are_refused_before_anything_happens() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let one = adapter(&model, config(4), 0);
    let before = bits(&one);
    let (good, bad) = (Options::default(), Options { lr: -1.0, ..Options::default() });
    for (options, part) in [(&bad, "--lr"), (&good, "the same tensors")] {
        let members = [&good, options].map(|options| Member { adapter: &one, data: &data, options });
        let other = adapter(&model, config(4), 0);
        let members = if part == "--lr" { [members[0], Member { adapter: &other, ..members[1] }] } else { members };
        let (mut a, mut b) = ((), ());
        let error = train_many(&mut model, &members, &mut [&mut a, &mut b], 8, &GO_ON).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(bits(&one) == before);
}

/// Plain adapters of any rank, init, targets, rate, seed and order of the data step in one pass over the base, until one
/// is done; bits are those of each alone. The last two have other lengths of batches than the rest: two micro-batches.
#[test]
fn plain_adapters_share_the_pass_and_keep_their_bits() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let fresh = |model: &mut Llama| -> Vec<(Adapter, Options)> {
        let ga = LoraConfig { init: "lora-ga".parse().unwrap(), ..config(2) };
        let twice = Options { grad_accum: 2, ..options(2, 1e-3, 5) };
        let mut all = vec![
            (adapter(model, config(4), 0), options(3, 1e-3, 0)),
            (
                adapter(model, LoraConfig { init: Init::Gaussian, use_rslora: true, ..config(9) }, 1),
                options(4, 1e-2, 1),
            ),
            (adapter(model, LoraConfig { targets: list("q_proj,down_proj"), ..config(1) }, 2), options(4, 3e-3, 2)),
            (adapter(model, LoraConfig { init: Init::Olora, ..config(4) }, 3), options(2, 1e-3, 3)),
            (
                adapter(model, LoraConfig { init: Init::Orthogonal, ..config(4) }, 4),
                Options { batch: 3, ..options(4, 1e-3, 4) },
            ),
            (adapter(model, LoraConfig { init: Init::Pissa { niter: None }, ..config(2) }, 5), twice.clone()),
        ];
        lowrank_lora::detach(model);
        let (started, _) = lowrank_train::start_adapter(model, ga, &data, 5, &GO_ON).unwrap();
        all.push((started, twice));
        all
    };
    let mut want = Vec::new();
    for (adapter, options) in fresh(&mut model) {
        let summary = alone(&mut model, &adapter, &data, &options).unwrap();
        want.push((bits(&adapter), summary.val_loss_before, summary.val_loss_after));
    }
    let mut launches = Vec::new();
    for together in [1, 3, 8] {
        let all = fresh(&mut model);
        let members: Vec<Member<'_>> =
            all.iter().map(|(adapter, options)| Member { adapter, data: &data, options }).collect();
        let mut nobody = [(); 7];
        let mut observers: Vec<&mut dyn Observer> = nobody.iter_mut().map(|o| o as &mut dyn Observer).collect();
        let before = model.device().stats().launches;
        let summaries = train_many(&mut model, &members, &mut observers, together, &GO_ON).unwrap();
        launches.push(model.device().stats().launches - before);
        for (i, (want, summary)) in want.iter().zip(&summaries).enumerate() {
            let summary = summary.as_ref().unwrap();
            assert!(bits(&all[i].0) == want.0, "adapter {i}, {together} together: other bits than alone");
            assert_eq!((summary.val_loss_before, summary.val_loss_after), (want.1, want.2));
        }
    }
    assert!(launches[0] > launches[1] && launches[1] > launches[2], "{launches:?}");
}
