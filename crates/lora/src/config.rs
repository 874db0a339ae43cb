//! What to adapt, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::targets::Lookup;
use crate::{Error, Init, Result};

/// Largest rank that is accepted: far above any use, low enough that a slip of the pen is an error, not an allocation.
const MAX_RANK: usize = 65_536;

/// The settings of an adapter, with PEFT's meaning throughout.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of layers without an entry in `rank_pattern`.
    pub r: usize,
    /// α of layers without an entry in `alpha_pattern`.
    pub alpha: f64,
    /// Dropout on the branch's input, in [0, 1).
    pub dropout: f64,
    /// Scale by α/√r instead of α/r (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor").
    pub use_rslora: bool,
    /// Train every row's magnitude beside its direction (Liu et al. 2024, "DoRA"). Linear layers only.
    pub use_dora: bool,
    /// Leave A as it starts: only B is trained (Zhang et al. 2023, "LoRA-FA"). Not written to files, which are plain LoRA.
    pub freeze_a: bool,
    /// Which layers get a pair.
    pub targets: Targets,
    /// Which of them do not; asked first.
    pub exclude: Option<Targets>,
    /// Numbers of the blocks whose layers get a pair; needs `targets` to be a list.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the lists of blocks (`layers`, `h`) that those numbers count; any, if there is none.
    pub layers_pattern: Option<Vec<String>>,
    /// Ranks of particular layers; a key is a regular expression for the end of the name, from a dot on.
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of particular layers, likewise.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Which biases are trained.
    pub bias: Bias,
    /// Ends of names of modules that are trained and saved whole.
    pub modules_to_save: Vec<String>,
    /// How A and B start.
    pub init: Init,
    /// What is trained of the targeted layers.
    pub method: Method,
    /// Weights are stored `[in, out]`. Refused if set: no supported model stores them so.
    pub fan_in_fan_out: bool,
    /// Let targets match some layers of a block family and not others.
    pub allow_partial: bool,
    /// Keys of the configuration file that mean nothing here; kept, and written back.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            alpha: 16.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            freeze_a: false,
            targets: Targets::AllLinear,
            exclude: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            bias: Bias::None,
            modules_to_save: Vec::new(),
            init: Init::Default,
            method: Method::Lora,
            fan_in_fan_out: false,
            allow_partial: false,
            extra: serde_json::Map::new(),
        }
    }
}

impl LoraConfig {
    /// Checks every setting that can be checked without a model; the error names the field.
    pub fn validate(&self) -> Result<()> {
        check_rank("r", self.r)?;
        check_alpha("lora_alpha", self.alpha)?;
        for (key, &r) in &self.rank_pattern {
            check_rank(&format!("rank_pattern: `{key}`"), r)?;
        }
        for (key, &alpha) in &self.alpha_pattern {
            check_alpha(&format!("alpha_pattern: `{key}`"), alpha)?;
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config("lora_dropout", format!("{} is not in [0, 1)", self.dropout)));
        }
        self.init.validate()?;
        crate::adapter::check_method(self)?;
        if self.use_dora && self.init.splits() {
            let detail = format!("init {} splits the base, which DoRA's magnitudes do not allow for", self.init);
            return Err(Error::config("use_dora", detail));
        }
        if self.fan_in_fan_out {
            return Err(Error::config("fan_in_fan_out", "weights stored [in, out] are not supported yet"));
        }
        let numbered = self.layers_to_transform.as_ref().is_some_and(|l| !l.is_empty());
        if numbered && !matches!(self.targets, Targets::List(_)) {
            let detail = format!("needs target_modules to be a list of names, not {}", self.targets);
            return Err(Error::config("layers_to_transform", detail));
        }
        if self.layers_pattern.as_ref().is_some_and(|p| !p.is_empty()) && !numbered {
            return Err(Error::config("layers_pattern", "means nothing without layers_to_transform"));
        }
        if matches!(self.exclude, Some(Targets::AllLinear)) {
            return Err(Error::config("exclude_modules", "takes names or a regular expression, not all-linear"));
        }
        Ok(())
    }

    /// Rank and α of a layer, by its name in the model: those of the first pattern that matches, else `r` and `alpha`.
    pub fn rank_and_alpha(&self, layer: &str) -> Result<(usize, f64)> {
        let rank = Lookup::new("rank_pattern", &self.rank_pattern)?.get(layer);
        let alpha = Lookup::new("alpha_pattern", &self.alpha_pattern)?.get(layer);
        Ok((rank.unwrap_or(self.r), alpha.unwrap_or(self.alpha)))
    }

    /// s for a layer of this rank and α: α/r, or α/√r with rsLoRA.
    pub fn scale(&self, r: usize, alpha: f64) -> f64 {
        if self.use_rslora { alpha / (r as f64).sqrt() } else { alpha / r as f64 }
    }
}

fn check_rank(field: &str, r: usize) -> Result<()> {
    if (1..=MAX_RANK).contains(&r) {
        return Ok(());
    }
    Err(Error::config(field, format!("rank {r} is not in 1 ..= {MAX_RANK}")))
}

/// Devices take s, which is no larger, in f32.
fn check_alpha(field: &str, alpha: f64) -> Result<()> {
    if !alpha.is_finite() {
        return Err(Error::config(field, format!("{alpha} is not a finite number")));
    }
    match (alpha as f32).is_finite() {
        true => Ok(()),
        false => Err(Error::config(field, format!("{alpha:e} is more than f32 can hold"))),
    }
}

/// A choice of modules.
///
/// On the command line: `all-linear`, `q_proj,v_proj`, or `re:` and a regular expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Every linear layer but the output head.
    AllLinear,
    /// Names that this regular expression matches from end to end.
    Regex(String),
    /// Names equal to an entry, or ending in a dot and an entry.
    List(Vec<String>),
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("all-linear") {
            return Ok(Targets::AllLinear);
        }
        if let Some(pattern) = text.strip_prefix("re:") {
            return Ok(Targets::Regex(pattern.to_string()));
        }
        let list: Vec<String> = text.split(',').map(|s| s.trim().to_string()).collect();
        if list.iter().any(String::is_empty) {
            let detail = format!("`{text}` has an empty name; write all-linear, q_proj,v_proj or re:REGEX");
            return Err(Error::config("targets", detail));
        }
        Ok(Targets::List(list))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Targets::AllLinear => f.write_str("all-linear"),
            Targets::Regex(pattern) => write!(f, "re:{pattern}"),
            Targets::List(list) => f.write_str(&list.join(",")),
        }
    }
}

/// An enum whose variants have names in files and on the command line.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $field:literal { $($(#[$vdoc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $type { $($(#[$vdoc])* $variant),* }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $name),* })
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($name => Ok($type::$variant),)*
                    _ => {
                        let known = [$($name),*].join(", ");
                        Err(Error::config($field, format!("`{text}` is not one of {known}")))
                    }
                }
            }
        }
    };
}

named! {
    /// Which biases are trained with the adapter.
    Bias, "bias" {
        /// None of them.
        #[default] None = "none",
        /// Every bias of the model.
        All = "all",
        /// Those of targeted layers.
        LoraOnly = "lora_only",
    }
}

named! {
    /// What is trained of the targeted layers.
    Method, "method" {
        /// A low-rank pair beside the weight.
        #[default] Lora = "lora",
        /// The layer itself: a copy of its weight and bias. Full fine-tuning of these layers, the yardstick.
        Full = "full",
        /// A bottleneck of width `r` behind the layer (Houlsby et al. 2019).
        Bottleneck = "bottleneck",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_from_the_command_line() {
        assert_eq!("All-Linear".parse::<Targets>().unwrap(), Targets::AllLinear);
        assert_eq!("re:.*q".parse::<Targets>().unwrap(), Targets::Regex(".*q".into()));
        assert_eq!("a, b".parse::<Targets>().unwrap(), Targets::List(vec!["a".into(), "b".into()]));
        assert!("a,".parse::<Targets>().is_err());
        assert_eq!("a,b".parse::<Targets>().unwrap().to_string(), "a,b");
    }

    #[test]
    fn enums_by_name() {
        assert_eq!("lora_only".parse::<Bias>().unwrap(), Bias::LoraOnly);
        let e = "some".parse::<Bias>().unwrap_err().to_string();
        assert_eq!(e, "bias: `some` is not one of none, all, lora_only");
    }

    #[test]
    fn ranges() {
        let bad = |c: LoraConfig| c.validate().unwrap_err().to_string();
        let ok = LoraConfig::default();
        ok.validate().unwrap();
        assert!(bad(LoraConfig { r: 0, ..ok.clone() }).starts_with("r: rank 0"));
        assert!(bad(LoraConfig { dropout: 1.0, ..ok.clone() }).starts_with("lora_dropout: 1"));
        assert!(bad(LoraConfig { alpha: f64::NAN, ..ok.clone() }).starts_with("lora_alpha"));
        for init in ["pissa", "olora", "lora-ga"] {
            let e = bad(LoraConfig { use_dora: true, init: init.parse().unwrap(), ..ok.clone() });
            assert!(e.starts_with(&format!("use_dora: init {init}")), "{e}");
        }
        assert!(bad(LoraConfig { fan_in_fan_out: true, ..ok.clone() }).starts_with("fan_in_fan_out"));
        assert!(bad(LoraConfig { layers_to_transform: Some(vec![0]), ..ok.clone() }).contains("all-linear"));
        assert!(bad(LoraConfig { layers_pattern: Some(vec!["h".into()]), ..ok }).starts_with("layers_pattern"));
    }

    #[test]
    fn scales() {
        let c = LoraConfig::default();
        assert_eq!(c.scale(4, 8.0), 2.0);
        assert_eq!(LoraConfig { use_rslora: true, ..c }.scale(4, 8.0), 4.0);
    }
}
