use std::collections::BTreeMap;

use super::*;
use crate::{Kind, Targets};

/// Four blocks of a Llama-type model.
fn llama() -> Vec<Info> {
    let info = |name: String, kind| Info { head: name == "lm_head", name, kind, shape: vec![8, 8], bias: false };
    let mut list = vec![info("model.embed_tokens".into(), Kind::Embedding)];
    for i in 0..4 {
        for part in ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"] {
            list.push(info(format!("model.layers.{i}.{part}"), Kind::Linear));
        }
        list.push(info(format!("model.layers.{i}.input_layernorm"), Kind::Norm));
    }
    list.push(info("model.norm".into(), Kind::Norm));
    list.push(info("lm_head".into(), Kind::Linear));
    list
}

fn list(names: &[&str]) -> Targets {
    Targets::List(names.iter().map(|s| s.to_string()).collect())
}

fn names(config: &LoraConfig, strict: bool) -> Vec<String> {
    select(&llama(), config, strict).unwrap().targeted.into_iter().map(|m| m.name).collect()
}

fn count(config: LoraConfig) -> usize {
    names(&config, true).len()
}

fn error(config: LoraConfig) -> String {
    select(&llama(), &config, true).err().expect("an error").to_string()
}

fn with(targets: Targets) -> LoraConfig {
    LoraConfig { targets, ..LoraConfig::default() }
}

const ALL: &str = "lm_head, model.embed_tokens, model.layers.*.input_layernorm (4), model.layers.*.mlp.up_proj (4), \
                   model.layers.*.self_attn.q_proj (4), model.layers.*.self_attn.v_proj (4), model.norm";

#[test]
fn what_matches() {
    assert_eq!(count(with(Targets::AllLinear)), 12);
    assert_eq!(count(with(list(&["q_proj"]))), 4);
    assert_eq!(count(with(list(&["self_attn.q_proj", "lm_head", "embed_tokens"]))), 6);
    assert_eq!(count(with(Targets::Regex(r".*\.(q|v)_proj".into()))), 8);
    // A full match: no match from the middle or up to it.
    assert!(error(with(Targets::Regex("q_proj".into()))).contains("matches no module"));
    assert!(error(with(Targets::Regex(r"model\.layers".into()))).contains("matches no module"));
    // The alternatives of a pattern are anchored together.
    let one = with(Targets::Regex("lm_head|model".into()));
    assert_eq!(names(&one, true), ["lm_head"]);
    // An entry matches from a dot on.
    assert!(error(with(list(&["proj"]))).contains("`proj` matches no module"));
    let exclude = |e| LoraConfig { exclude: Some(e), ..with(Targets::AllLinear) };
    assert_eq!(count(exclude(list(&["up_proj"]))), 8);
    assert_eq!(count(exclude(Targets::Regex(r".*\.0\..*".into()))), 9);
    let saved = LoraConfig { modules_to_save: vec!["mlp".into()], ..with(Targets::AllLinear) };
    assert_eq!(names(&saved, false).len(), 8);
}

#[test]
fn layers_to_transform() {
    let some = |numbers: &[usize], pattern: Option<&str>, names: &[&str]| LoraConfig {
        layers_to_transform: Some(numbers.to_vec()),
        layers_pattern: pattern.map(|p| vec![p.to_string()]),
        ..with(list(names))
    };
    assert_eq!(
        names(&some(&[1, 3], None, &["q_proj"]), true),
        ["model.layers.1.self_attn.q_proj", "model.layers.3.self_attn.q_proj"]
    );
    assert_eq!(count(some(&[2], Some("layers"), &["q_proj", "up_proj"])), 2);
    // An entry equal to the whole name is not filtered.
    let exact = some(&[1], None, &["q_proj", "lm_head"]);
    assert_eq!(names(&exact, true), ["model.layers.1.self_attn.q_proj", "lm_head"]);
    assert_eq!(
        error(some(&[1, 7], None, &["q_proj"])),
        "layers_to_transform: no target in layer 7; there are targets in layers 0, 1, 2, 3"
    );
    assert_eq!(
        error(some(&[1], Some("h"), &["q_proj"])),
        "layers_to_transform: no target in layer 1; there are targets in layers "
    );
    // A module without a number is filtered out.
    assert!(
        error(some(&[1], None, &["q_proj", "embed_tokens"])).contains("`embed_tokens` matches no module that is not")
    );
}

#[test]
fn the_first_number_is_the_block() {
    let mut infos = llama();
    infos.push(Info { name: "model.layers.1.experts.0.w".into(), ..infos[1].clone() });
    let config = LoraConfig { layers_to_transform: Some(vec![1]), ..with(list(&["w"])) };
    assert_eq!(select(&infos, &config, true).unwrap().targeted.len(), 1);
}

#[test]
fn without_effect() {
    let base = || with(list(&["q_proj"]));
    let cases = [
        (with(list(&["q_proj", "k_proj"])), format!("target_modules: `k_proj` matches no module; there are {ALL}")),
        (
            LoraConfig { exclude: Some(list(&["x"])), ..base() },
            format!("exclude_modules: `x` matches no module; there are {ALL}"),
        ),
        (
            LoraConfig { exclude: Some(Targets::Regex("x".into())), ..base() },
            format!("exclude_modules: the regular expression matches no module; there are {ALL}"),
        ),
        (
            LoraConfig { modules_to_save: vec!["score".into()], ..base() },
            format!("modules_to_save: `score` matches no module; there are {ALL}"),
        ),
        (
            LoraConfig { rank_pattern: BTreeMap::from([("up_proj".into(), 4)]), ..base() },
            "rank_pattern: `up_proj` matches no target; targeted are model.layers.*.self_attn.q_proj (4)".into(),
        ),
        (
            LoraConfig { alpha_pattern: BTreeMap::from([("proj".into(), 4.0)]), ..base() },
            "alpha_pattern: `proj` matches no target; targeted are model.layers.*.self_attn.q_proj (4)".into(),
        ),
        (with(list(&[])), format!("target_modules: no targets; there are {ALL}")),
        (
            LoraConfig { exclude: Some(list(&["q_proj"])), ..base() },
            format!(
                "target_modules: `q_proj` matches no module that is not excluded, saved whole or in another layer; there \
                 are {ALL}"
            ),
        ),
        (
            LoraConfig { modules_to_save: vec!["q_proj".into()], ..with(list(&["q_proj", "up_proj"])) },
            format!(
                "target_modules: `q_proj` matches no module that is not excluded, saved whole or in another layer; there \
                 are {ALL}"
            ),
        ),
    ];
    for (config, want) in cases {
        assert_eq!(error(config), want);
    }
}

#[test]
fn families_in_part() {
    let partial = with(Targets::Regex(r"model\.layers\.[0-2]\.self_attn\.q_proj".into()));
    assert_eq!(
        error(partial.clone()),
        "target_modules: re:model\\.layers\\.[0-2]\\.self_attn\\.q_proj matches only some of \
         model.layers.*.self_attn.q_proj: matched model.layers.0.self_attn.q_proj, model.layers.1.self_attn.q_proj, \
         model.layers.2.self_attn.q_proj; not matched model.layers.3.self_attn.q_proj; name the layers with \
         layers_to_transform, or allow a partial match"
    );
    assert_eq!(names(&partial, false).len(), 3);
    assert_eq!(count(LoraConfig { allow_partial: true, ..partial }), 3);
    assert!(error(with(list(&["2.self_attn.v_proj"]))).contains("not matched model.layers.0.self_attn.v_proj"));
    // All of them, one by one, are the whole family.
    assert_eq!(count(with(list(&["0.mlp.up_proj", "1.mlp.up_proj", "2.mlp.up_proj", "3.mlp.up_proj"]))), 4);
}

#[test]
fn norms_carry_no_pair() {
    let want = "target_modules: norm selects `model.norm`, which is a norm; pairs go on linear layers and embeddings";
    assert_eq!(error(with(list(&["norm"]))), want);
    assert!(select(&llama(), &with(Targets::Regex(".*".into())), false).is_err());
}

#[test]
fn a_module_is_not_both_targeted_and_saved() {
    // PEFT saves by any end of a name, and excludes from targeting from a dot on only.
    let config = LoraConfig { modules_to_save: vec!["_proj".into()], ..with(list(&["q_proj"])) };
    assert_eq!(error(config), "modules_to_save: `model.layers.0.self_attn.q_proj` is a target as well");
}

#[test]
fn patterns_look_up_the_end_of_a_name() {
    let map = BTreeMap::from([
        ("0.self_attn.q_proj".to_string(), 1),
        ("layers.[12].*".to_string(), 2),
        ("q_proj".to_string(), 3),
        ("a|up_proj".to_string(), 4),
        ("^lm_head".to_string(), 5),
    ]);
    let lookup = Lookup::new("rank_pattern", &map).unwrap();
    assert_eq!(lookup.get("model.layers.0.self_attn.q_proj"), Some(1));
    assert_eq!(lookup.get("model.layers.1.self_attn.q_proj"), Some(2));
    assert_eq!(lookup.get("model.layers.3.self_attn.q_proj"), Some(3));
    assert_eq!(lookup.get("model.layers.3.mlp.up_proj"), Some(4));
    assert_eq!(lookup.get("lm_head"), Some(5));
    assert_eq!(lookup.get("model.layers.3.self_attn.v_proj"), None);
    assert_eq!(lookup.get("q_proj_2"), None);
    assert!(Lookup::new("rank_pattern", &BTreeMap::from([("(".to_string(), 1)])).is_err());
}
