//! Names of tensors in PEFT's files.
//!
//! `base_model.model.` + the module's name + what it is. A trained bias of a layer with a pair is its base layer's.

use crate::Kind;

const PREFIX: &str = "base_model.model.";

/// Key of A.
pub(crate) fn a(module: &str, kind: Kind) -> String {
    match kind {
        Kind::Embedding => format!("{PREFIX}{module}.lora_embedding_A"),
        _ => format!("{PREFIX}{module}.lora_A.weight"),
    }
}

/// Key of B.
pub(crate) fn b(module: &str, kind: Kind) -> String {
    match kind {
        Kind::Embedding => format!("{PREFIX}{module}.lora_embedding_B"),
        _ => format!("{PREFIX}{module}.lora_B.weight"),
    }
}

/// Key of DoRA's magnitude. PEFT's parameter has `.weight` behind it, its file has not.
pub(crate) fn magnitude(module: &str) -> String {
    format!("{PREFIX}{module}.lora_magnitude_vector")
}

/// Key of a parameter as the model names it.
pub(crate) fn plain(parameter: &str) -> String {
    format!("{PREFIX}{parameter}")
}

/// Key of a trained bias.
pub(crate) fn bias(module: &str, has_pair: bool) -> String {
    if has_pair { format!("{PREFIX}{module}.base_layer.bias") } else { format!("{PREFIX}{module}.bias") }
}

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
    /// The module's weight: a whole copy, or the base's under a pair.
    Weight,
    /// The module's bias, likewise.
    Bias,
    /// The base's weight or bias beside a whole copy; says nothing new.
    OriginalWeight,
    OriginalBias,
}

impl Part {
    pub(crate) fn a(kind: Kind) -> Part {
        if kind == Kind::Embedding { Part::EmbeddingA } else { Part::A }
    }

    pub(crate) fn b(kind: Kind) -> Part {
        if kind == Kind::Embedding { Part::EmbeddingB } else { Part::B }
    }
}

/// A key's module and part; else why it is not understood. The adapter's name, which old files have in their keys
/// (`….lora_A.default.weight`), is skipped.
pub(crate) fn parse(key: &str) -> Result<(String, Part), String> {
    let Some(rest) = key.strip_prefix(PREFIX) else {
        return Err(format!("does not start with `{PREFIX}`"));
    };
    let parts: Vec<&str> = rest.split('.').collect();
    let named = |at: usize| parts[..at].join(".");
    if let Some(at) = parts.iter().rposition(|p| p.starts_with("lora_")) {
        let part = match (parts[at], &parts[at + 1..]) {
            ("lora_A", ["weight"] | [_, "weight"]) => Part::A,
            ("lora_B", ["weight"] | [_, "weight"]) => Part::B,
            ("lora_embedding_A", [] | [_]) => Part::EmbeddingA,
            ("lora_embedding_B", [] | [_]) => Part::EmbeddingB,
            ("lora_magnitude_vector", [] | ["weight"] | [_] | [_, "weight"]) => Part::Magnitude,
            ("lora_A" | "lora_B", [.., "bias"]) => return Err("lora_bias is not supported yet".to_string()),
            (other, _) => return Err(format!("`{other}` is not understood")),
        };
        return Ok((named(at), part));
    }
    let (at, part) = match &parts[..] {
        [.., "original_module", "weight"] => (parts.len() - 2, Part::OriginalWeight),
        [.., "original_module", "bias"] => (parts.len() - 2, Part::OriginalBias),
        [.., "base_layer" | "modules_to_save", "weight"] => (parts.len() - 2, Part::Weight),
        [.., "base_layer" | "modules_to_save", "bias"] => (parts.len() - 2, Part::Bias),
        [.., "modules_to_save", _, "weight"] => (parts.len() - 3, Part::Weight),
        [.., "modules_to_save", _, "bias"] => (parts.len() - 3, Part::Bias),
        [.., "weight"] => (parts.len() - 1, Part::Weight),
        [.., "bias"] => (parts.len() - 1, Part::Bias),
        _ => return Err("is not understood".to_string()),
    };
    Ok((named(at), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        for (key, module, part) in [
            ("m.q.lora_A.weight", "m.q", Part::A),
            ("m.q.lora_B.default.weight", "m.q", Part::B),
            ("e.lora_embedding_A", "e", Part::EmbeddingA),
            ("e.lora_embedding_B.default", "e", Part::EmbeddingB),
            ("m.q.lora_magnitude_vector", "m.q", Part::Magnitude),
            ("m.q.lora_magnitude_vector.weight", "m.q", Part::Magnitude),
            ("m.q.lora_magnitude_vector.default.weight", "m.q", Part::Magnitude),
            ("e.base_layer.weight", "e", Part::Weight),
            ("m.q.base_layer.bias", "m.q", Part::Bias),
            ("m.n.bias", "m.n", Part::Bias),
            ("score.weight", "score", Part::Weight),
            ("score.modules_to_save.weight", "score", Part::Weight),
            ("score.modules_to_save.default.bias", "score", Part::Bias),
            ("score.original_module.bias", "score", Part::OriginalBias),
        ] {
            assert_eq!(parse(&plain(key)), Ok((module.to_string(), part)), "{key}");
        }
        for (key, why) in [
            ("base_model.model.q.lora_B.bias", "lora_bias is not supported yet"),
            ("base_model.model.q.lora_C.weight", "`lora_C` is not understood"),
            ("base_model.model.q", "is not understood"),
            ("q.lora_A.weight", "does not start with `base_model.model.`"),
        ] {
            assert_eq!(parse(key), Err(why.to_string()), "{key}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for kind in [Kind::Linear, Kind::Embedding] {
            assert_eq!(parse(&a("x.y", kind)), Ok(("x.y".into(), Part::a(kind))));
            assert_eq!(parse(&b("x.y", kind)), Ok(("x.y".into(), Part::b(kind))));
        }
        assert_eq!(parse(&magnitude("x.y")), Ok(("x.y".into(), Part::Magnitude)));
        assert_eq!(parse(&bias("x.y", true)), Ok(("x.y".into(), Part::Bias)));
        assert_eq!(parse(&bias("x.y", false)), Ok(("x.y".into(), Part::Bias)));
    }
}
