//! The choice of an init, as written on the command line: a name, and after a colon settings as `key=value`.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How A and B start.
///
/// On the command line: `default`, `gaussian`, `orthogonal`, `pissa`, `pissa:niter=4`, `olora`, `eva:batches=16`,
/// `lora-ga`, `lora-ga:direction=ArB2r,scale=stable,gamma=16,batches=8,estimator=streamed,passes=4`, `both-zero`,
/// `both-random`. What is not said has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Init {
    /// A uniform in ±1/√k, B zero. Embedding: A zero, B normal.
    #[default]
    Default,
    /// A normal with deviation 1/r, B zero. Embedding: as the default.
    Gaussian,
    /// Both zero: trains nothing, ever (each one's gradient is a product with the other). For contrast.
    BothZero,
    /// Both random: trains, but the adapted model does not start as the base. For contrast.
    BothRandom,
    /// Both random with B A = 0; r is even.
    Orthogonal,
    /// The leading part of the weight itself (Meng et al. 2024, "PiSSA").
    Pissa {
        /// Subspace iterations of a randomised SVD; none: the exact one.
        niter: Option<usize>,
    },
    /// The first columns of the weight's QR decomposition (Büyükakyüz 2024, "OLoRA").
    Olora,
    /// A from the SVD of the layer's inputs, B zero (Paischer et al. 2024, "EVA"). Needs data.
    Eva {
        /// Micro-batches whose inputs are looked at.
        batches: usize,
    },
    /// From the SVD of the gradient (Wang et al. 2024, "LoRA-GA"). Needs data.
    LoraGa(LoraGa),
}

/// Settings of LoRA-GA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraGa {
    /// Which singular vectors go to A and which to B.
    pub direction: Direction,
    /// How long they are.
    pub scale: GaScale,
    /// γ of the scale; larger means shorter vectors.
    pub gamma: f64,
    /// Shorten A and B so that no element of sBA exceeds the largest of W.
    pub norm_clip: bool,
    /// Micro-batches that the gradient is summed over.
    pub batches: usize,
    /// Examples of a micro-batch.
    pub batch: usize,
    /// How the gradient is come by.
    pub estimator: Estimator,
    /// Subspace iterations of the SVD of a full gradient.
    pub niter: usize,
}

impl Default for LoraGa {
    fn default() -> Self {
        LoraGa {
            direction: Direction::ArB2r,
            scale: GaScale::Stable,
            gamma: 16.0,
            norm_clip: false,
            batches: 8,
            batch: 1,
            estimator: Estimator::default(),
            niter: 4,
        }
    }
}

/// Which of the 2r leading singular vectors of the gradient A and B get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// A = V[0..r]ᵀ, B = U[r..2r].
    #[default]
    ArB2r,
    /// A = V[r..2r]ᵀ, B = U[0..r].
    A2rBr,
    /// A = V[1, 3, …]ᵀ, B = U[0, 2, …].
    ArBr,
    /// Two disjoint random halves of the 2r.
    Random,
}

/// The length of A's rows and B's columns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum GaScale {
    /// n^¼/√γ: forward-stable, ζ = s²√n/γ.
    #[default]
    Stable,
    /// k^¼/√γ: backward-stable, ζ = s²√k/γ.
    Backward,
    /// 1/s: the first step has the gradient's length.
    Gd,
    /// 1.
    Unit,
    /// The mean of √(σᵢ(W)/s) over the r leading singular values of the weight.
    WeightSvd,
    /// √ζ/s for a ζ of one's own.
    Zeta(f64),
}

/// How LoRA-GA comes by the gradient's singular vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimator {
    /// Sums the gradient of a few layers at a time, exactly. Every group of layers replays all micro-batches.
    Full {
        /// Gradients `[n,k]` in memory at one time.
        alive: usize,
    },
    /// Sketches the gradients of all layers at once; none is ever formed. Every pass replays all micro-batches (a single
    /// micro-batch needs no replay).
    Streamed {
        /// Products with the gradient, alternately from either side. A single one is taken from both sides at once: the
        /// cheapest and least exact.
        passes: usize,
    },
}

impl Default for Estimator {
    fn default() -> Self {
        Estimator::Full { alive: 1 }
    }
}

const NAMES: &str = "default, gaussian, orthogonal, pissa, olora, eva, lora-ga, both-zero, both-random";

impl Init {
    /// Whether it takes its start off the base: PiSSA, OLoRA, LoRA-GA.
    pub fn splits(&self) -> bool {
        matches!(self, Init::Pissa { .. } | Init::Olora | Init::LoraGa(_))
    }

    /// Whether it looks at the model's gradients or activations.
    pub fn needs_data(&self) -> bool {
        matches!(self, Init::Eva { .. } | Init::LoraGa(_))
    }

    /// Checks the settings; the error names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        let at_least = |key: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(bad(format!("{key} is {value}; at least {least}"))),
        };
        let positive = |key: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(bad(format!("{key} is {value}, no positive number"))),
        };
        match self {
            Init::Eva { batches } => at_least("batches", *batches, 1),
            Init::LoraGa(o) => {
                at_least("batches", o.batches, 1)?;
                at_least("batch", o.batch, 1)?;
                positive("gamma", o.gamma)?;
                if let GaScale::Zeta(zeta) = o.scale {
                    positive("zeta", zeta)?;
                }
                match o.estimator {
                    Estimator::Full { alive } => at_least("alive", alive, 1),
                    Estimator::Streamed { passes } => at_least("passes", passes, 1),
                }
            }
            _ => Ok(()),
        }
    }
}

fn bad(detail: impl AsRef<str>) -> Error {
    Error::config("init", detail)
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, settings) = match text.split_once(':') {
            Some((name, settings)) => (name, Some(settings)),
            None => (text, None),
        };
        let mut settings = Settings::parse(settings)?;
        let init = match name {
            "default" => Init::Default,
            "gaussian" => Init::Gaussian,
            "both-zero" => Init::BothZero,
            "both-random" => Init::BothRandom,
            "orthogonal" => Init::Orthogonal,
            "pissa" => Init::Pissa { niter: settings.take("niter")? },
            "olora" => Init::Olora,
            "eva" => Init::Eva { batches: settings.take("batches")?.unwrap_or(LoraGa::default().batches) },
            "lora-ga" => Init::LoraGa(settings.lora_ga()?),
            _ => return Err(bad(format!("`{name}` is not one of {NAMES}"))),
        };
        settings.nothing_left(name)?;
        init.validate()?;
        Ok(init)
    }
}

/// `key=value` pairs not yet used.
struct Settings(Vec<(String, String)>);

impl Settings {
    fn parse(text: Option<&str>) -> Result<Self> {
        let mut list: Vec<(String, String)> = Vec::new();
        for part in text.into_iter().flat_map(|t| t.split(',')) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(bad(format!("`{part}` is not written as key=value")));
            };
            if list.iter().any(|(k, _)| k == key) {
                return Err(bad(format!("{key} is given twice")));
            }
            list.push((key.to_string(), value.to_string()));
        }
        Ok(Settings(list))
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }

    fn take<T: FromStr>(&mut self, key: &str) -> Result<Option<T>> {
        let parse = |v: String| v.parse().map_err(|_| bad(format!("{key}: `{v}` cannot be understood")));
        self.text(key).map(parse).transpose()
    }

    fn lora_ga(&mut self) -> Result<LoraGa> {
        let d = LoraGa::default();
        let direction = match self.text("direction").as_deref() {
            None => d.direction,
            Some("ArB2r") => Direction::ArB2r,
            Some("A2rBr") => Direction::A2rBr,
            Some("ArBr") => Direction::ArBr,
            Some("random") => Direction::Random,
            Some(x) => return Err(bad(format!("direction: `{x}` is not one of ArB2r, A2rBr, ArBr, random"))),
        };
        let (scale, zeta) = (self.text("scale"), self.text("zeta"));
        if scale.is_some() && zeta.is_some() {
            return Err(bad("scale and zeta say the same thing; give one of them"));
        }
        let scale = match (scale.as_deref(), zeta.as_deref()) {
            (None, None) => d.scale,
            (Some("stable"), _) | (_, Some("forward")) => GaScale::Stable,
            (_, Some("backward")) => GaScale::Backward,
            (Some("gd"), _) => GaScale::Gd,
            (Some("unit"), _) => GaScale::Unit,
            (Some("weight_svd"), _) => GaScale::WeightSvd,
            (Some(x), _) => return Err(bad(format!("scale: `{x}` is not one of stable, gd, unit, weight_svd"))),
            (_, Some(x)) => match x.parse() {
                Ok(zeta) => GaScale::Zeta(zeta),
                Err(_) => return Err(bad(format!("zeta: `{x}` is neither forward nor backward nor a number"))),
            },
        };
        let estimator = match self.text("estimator").as_deref() {
            None | Some("full") => Estimator::Full { alive: self.take("alive")?.unwrap_or(1) },
            Some("streamed") => Estimator::Streamed { passes: self.take("passes")?.unwrap_or(4) },
            Some(x) => return Err(bad(format!("estimator: `{x}` is neither full nor streamed"))),
        };
        Ok(LoraGa {
            direction,
            scale,
            gamma: self.take("gamma")?.unwrap_or(d.gamma),
            norm_clip: self.take("norm_clip")?.unwrap_or(d.norm_clip),
            batches: self.take("batches")?.unwrap_or(d.batches),
            batch: self.take("batch")?.unwrap_or(d.batch),
            estimator,
            niter: self.take("niter")?.unwrap_or(d.niter),
        })
    }

    fn nothing_left(&self, name: &str) -> Result<()> {
        match self.0.first() {
            Some((key, _)) => Err(bad(format!("{name} has no setting `{key}` here"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Init::Default => f.write_str("default"),
            Init::Gaussian => f.write_str("gaussian"),
            Init::BothZero => f.write_str("both-zero"),
            Init::BothRandom => f.write_str("both-random"),
            Init::Orthogonal => f.write_str("orthogonal"),
            Init::Pissa { niter: None } => f.write_str("pissa"),
            Init::Pissa { niter: Some(n) } => write!(f, "pissa:niter={n}"),
            Init::Olora => f.write_str("olora"),
            Init::Eva { batches } => write!(f, "eva:batches={batches}"),
            Init::LoraGa(o) => write!(f, "lora-ga:{o}"),
        }
    }
}

impl fmt::Display for LoraGa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::ArB2r => "ArB2r",
            Direction::A2rBr => "A2rBr",
            Direction::ArBr => "ArBr",
            Direction::Random => "random",
        };
        write!(f, "direction={direction},")?;
        match self.scale {
            GaScale::Stable => write!(f, "scale=stable")?,
            GaScale::Backward => write!(f, "zeta=backward")?,
            GaScale::Gd => write!(f, "scale=gd")?,
            GaScale::Unit => write!(f, "scale=unit")?,
            GaScale::WeightSvd => write!(f, "scale=weight_svd")?,
            GaScale::Zeta(zeta) => write!(f, "zeta={zeta}")?,
        }
        write!(f, ",gamma={},", self.gamma)?;
        if self.norm_clip {
            write!(f, "norm_clip=true,")?;
        }
        write!(f, "batches={},batch={},", self.batches, self.batch)?;
        match self.estimator {
            Estimator::Full { alive } => write!(f, "estimator=full,alive={alive},niter={}", self.niter),
            Estimator::Streamed { passes } => write!(f, "estimator=streamed,passes={passes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all = [
            "default",
            "gaussian",
            "both-zero",
            "both-random",
            "orthogonal",
            "pissa",
            "pissa:niter=4",
            "olora",
            "eva:batches=3",
            "lora-ga:direction=A2rBr,scale=gd,gamma=64,batches=3,batch=2,estimator=full,alive=5,niter=7",
            "lora-ga:direction=ArBr,zeta=0.5,gamma=16,norm_clip=true,batches=8,batch=1,estimator=streamed,passes=6",
        ];
        for text in all {
            let init: Init = text.parse().unwrap();
            assert_eq!(init.to_string().parse::<Init>().unwrap(), init, "{text}");
        }
        assert_eq!("lora-ga".parse::<Init>().unwrap(), Init::LoraGa(LoraGa::default()));
        assert_eq!(all[9].parse::<Init>().unwrap().to_string(), all[9]);
        let Init::LoraGa(random) = "lora-ga:direction=random,zeta=backward".parse().unwrap() else { panic!() };
        assert_eq!((random.direction, random.scale), (Direction::Random, GaScale::Backward));
        assert_eq!(Init::LoraGa(random).to_string().parse::<Init>().unwrap(), Init::LoraGa(random));
    }

    #[test]
    fn errors_name_the_setting() {
        let e = |text: &str| text.parse::<Init>().unwrap_err().to_string();
        assert_eq!(e("kaiming"), format!("init: `kaiming` is not one of {NAMES}"));
        assert_eq!(e("olora:niter=3"), "init: olora has no setting `niter` here");
        assert_eq!(e("lora-ga:passes=4"), "init: lora-ga has no setting `passes` here");
        assert_eq!(e("lora-ga:gamma"), "init: `gamma` is not written as key=value");
        assert_eq!(e("lora-ga:gamma=-1"), "init: gamma is -1, no positive number");
        assert_eq!(e("lora-ga:gamma=x"), "init: gamma: `x` cannot be understood");
        assert_eq!(e("lora-ga:gamma=1,gamma=2"), "init: gamma is given twice");
        assert_eq!(e("lora-ga:scale=gd,zeta=1"), "init: scale and zeta say the same thing; give one of them");
        assert_eq!(e("lora-ga:estimator=streamed,passes=0"), "init: passes is 0; at least 1");
        assert_eq!(e("eva:batches=0"), "init: batches is 0; at least 1");
    }
}
