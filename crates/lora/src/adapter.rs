//! An adapter: trainable tensors by the name of the layer they belong to.

mod magnitude;
mod method;

use std::collections::BTreeMap;

use lowrank_core::Tensor;

use crate::host::{Info, infos};
use crate::init::{self, InitReport, Run, Sizes, Target};
use crate::peft::keys;
use crate::report::{self, Report};
use crate::targets::{Lookup, Selection, select};
use crate::{Bias, Bottleneck, Error, Host, Kind, LoraConfig, LowRank, Method, Offset, Result};

/// Everything that training changes. Clones are handles on the same tensors.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it is called among others; `default` is PEFT's name for a single one.
    pub name: String,
    /// What it was made with.
    pub config: LoraConfig,
    /// Pairs by layer.
    pub layers: BTreeMap<String, LowRank>,
    /// Bottlenecks by the layer they stand behind.
    pub bottlenecks: BTreeMap<String, Bottleneck>,
    /// Whole copies (modules_to_save) by parameter: `<module>.weight`, `<module>.bias`.
    pub saved: BTreeMap<String, Tensor>,
    /// Trained biases by parameter: `<module>.bias`.
    pub biases: BTreeMap<String, Tensor>,
}

impl Adapter {
    /// A fresh adapter for a host, which it does not change (see [`attach`](crate::attach)). Every part of the
    /// configuration must match something; the errors list what there is. Tensors have the host's activation dtype,
    /// collect gradients, and are drawn from `seed` and their layer's name alone.
    ///
    /// An init that needs data (LoRA-GA, EVA) is refused here; see [`Adapter::create_with_data`].
    pub fn create(host: &dyn Host, name: &str, config: LoraConfig, seed: u64) -> Result<Self> {
        Adapter::assemble(host, name, config, seed, None)
    }

    /// Whether it is pairs on linear layers and nothing else: no DoRA, no pairs on embeddings, no bottlenecks, nothing
    /// saved whole, no trained biases.
    pub fn is_plain(&self) -> bool {
        let linear = |l: &LowRank| l.kind == Kind::Linear && l.magnitude.is_none();
        self.layers.values().all(linear)
            && self.bottlenecks.is_empty()
            && self.saved.is_empty()
            && self.biases.is_empty()
    }

    /// A fresh adapter whose init looks at the model at work. `run` shows the host a micro-batch, by its number, and
    /// returns the loss; it is called with the same numbers again whenever the estimator replays them, and must do the
    /// same then. How many there are is a setting of the init; the gradient is that of the sum of their losses.
    ///
    /// No adapter may be attached to the host, which is given back as it was. A layer that the loss does not depend on is an
    /// error that names it.
    pub fn create_with_data<H: Host>(
        host: &mut H,
        name: &str,
        config: LoraConfig,
        seed: u64,
        run: &mut Run<'_, H>,
    ) -> Result<(Self, InitReport)> {
        check_name(name)?;
        config.validate()?;
        let Selection { targeted, .. } = select(&infos(host), &config, true)?;
        let weights = weights(host);
        let mut targets = Vec::new();
        for (m, rank, alpha) in ranks_and_alphas(&config, targeted)? {
            let (sizes, scale) = (sizes(&m, rank)?, config.scale(rank, alpha));
            targets.push(Target { sizes, scale, weight: weights[&m.name].clone(), name: m.name });
        }
        let (starts, report) = init::from_data(host, &config.init, &targets, seed, run)?;
        Ok((Adapter::assemble(host, name, config, seed, Some(starts))?, report))
    }

    fn assemble(
        host: &dyn Host,
        name: &str,
        config: LoraConfig,
        seed: u64,
        mut starts: Option<BTreeMap<String, init::Pair>>,
    ) -> Result<Self> {
        check_name(name)?;
        let infos = infos(host);
        let Selection { mut targeted, mut saved } = select(&infos, &config, true)?;
        let mut adapter = Adapter {
            name: name.to_string(),
            config,
            layers: BTreeMap::new(),
            bottlenecks: BTreeMap::new(),
            saved: BTreeMap::new(),
            biases: BTreeMap::new(),
        };
        match adapter.config.method {
            Method::Lora => {}
            Method::Full => saved = adapter.whole(&std::mem::take(&mut targeted), saved),
            Method::Bottleneck => adapter.add_bottlenecks(host, &std::mem::take(&mut targeted), seed)?,
        }
        let weights = weights(host);
        for (m, rank, alpha) in ranks_and_alphas(&adapter.config, targeted)? {
            let sizes = sizes(&m, rank)?;
            let pair = match starts.as_mut().and_then(|s| s.remove(&m.name)) {
                Some(pair) => pair,
                None => {
                    let scale = adapter.config.scale(rank, alpha);
                    init::start(&adapter.config.init, &m.name, seed, &sizes, scale, &weights[&m.name])
                        .map_err(|e| init::in_layer(&m.name, e))?
                }
            };
            let pair = adapter.pair(host, &m, &sizes, alpha, &pair)?;
            adapter.layers.insert(m.name, pair);
        }
        adapter.copy_from_base(host, &saved)?;
        // A head of logits makes it a language model, which is what PEFT's task type selects a wrapper by.
        let task = if host.output_head().is_some() { "CAUSAL_LM".into() } else { serde_json::Value::Null };
        adapter.config.extra.entry("task_type").or_insert(task);
        Ok(adapter)
    }

    fn pair(&self, host: &dyn Host, m: &Info, s: &Sizes, alpha: f64, start: &init::Pair) -> Result<LowRank> {
        let (a_shape, b_shape) = ([s.r, s.k], [s.n, s.r]);
        if let Some(x) = start.a.iter().chain(&start.b).find(|x| !x.is_finite()) {
            return Err(Error::adapter(format!("{}: the init {} gives {x}", m.name, self.config.init)));
        }
        no_magnitude_on(m, self.config.use_dora)?;
        if self.config.freeze_a && start.a.iter().all(|&x| x == 0.0) {
            let detail = format!("`{}`: A starts at zero, and would stay there with everything it multiplies", m.name);
            return Err(Error::config("freeze_a", detail));
        }
        let frozen = |data: &[f64], shape: &[usize]| Tensor::from_f64(data, shape, host.dtype(), host.device());
        let leaf = |key: String, data: &[f64], shape: &[usize]| -> Result<Tensor> {
            Ok(frozen(data, shape)?.named(key).trainable()?)
        };
        let minus = || start.b.iter().map(|x| -x).collect::<Vec<f64>>();
        let offset = match start.offset {
            true => Some(Offset { a: frozen(&start.a, &a_shape)?, b: frozen(&minus(), &b_shape)? }),
            false => None,
        };
        let a = leaf(keys::a(&m.name, m.kind), &start.a, &a_shape)?;
        let b = leaf(keys::b(&m.name, m.kind), &start.b, &b_shape)?;
        let scale = self.config.scale(s.r, alpha);
        let magnitude = if self.config.use_dora { Some(magnitude::start(host, &m.name, &a, &b, scale)?) } else { None };
        Ok(LowRank {
            a: if self.config.freeze_a { a.detach().named(keys::a(&m.name, m.kind)) } else { a },
            b,
            magnitude,
            scale,
            dropout: self.config.dropout,
            rank: s.r,
            alpha,
            kind: m.kind,
            offset,
        })
    }

    /// Trainable copies of the modules saved whole, and of the biases to train.
    fn copy_from_base(&mut self, host: &dyn Host, saved: &[Info]) -> Result<()> {
        let mut outcome = Ok(());
        host.visit(&mut |m| {
            let whole = saved.iter().any(|s| s.name == m.name());
            let bias = match self.config.bias {
                Bias::None => false,
                Bias::All => !whole,
                Bias::LoraOnly => self.layers.contains_key(m.name()),
            };
            let copy = |key: String, t: &Tensor| -> Result<Tensor> {
                Ok(Tensor::from_f64(&t.to_f64()?, t.shape(), host.dtype(), host.device())?.named(key).trainable()?)
            };
            let mut all = || -> Result<()> {
                let (weight, bias_name) = (format!("{}.weight", m.name()), format!("{}.bias", m.name()));
                if whole {
                    self.saved.insert(weight.clone(), copy(keys::plain(&weight), m.base_weight())?);
                }
                if let Some(b) = m.base_bias()
                    && (whole || bias)
                {
                    let key = keys::bias(m.name(), self.layers.contains_key(m.name()));
                    let list = if whole { &mut self.saved } else { &mut self.biases };
                    list.insert(bias_name, copy(key, b)?);
                }
                Ok(())
            };
            if outcome.is_ok() {
                outcome = all();
            }
        });
        outcome?;
        if self.config.bias != Bias::None && self.biases.is_empty() {
            return Err(Error::targets(format!("bias: {} was asked for, but there is no such bias", self.config.bias)));
        }
        Ok(())
    }

    /// Every trainable tensor under its key in PEFT's file, sorted by key.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.tensors().into_iter().filter(|(_, t)| t.requires_grad()).collect()
    }

    /// Every tensor of the adapter under its key in PEFT's file, sorted by key; a frozen A is one of them.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut list = Vec::new();
        for (name, pair) in &self.layers {
            list.push((keys::a(name, pair.kind), pair.a.clone()));
            list.push((keys::b(name, pair.kind), pair.b.clone()));
            list.extend(pair.magnitude.iter().map(|m| (keys::magnitude(name), m.clone())));
        }
        for (name, bottleneck) in &self.bottlenecks {
            let parts = bottleneck.tensors().map(|(part, t)| (keys::plain(&format!("{name}.{part}")), t.clone()));
            list.extend(parts);
        }
        for (parameter, tensor) in &self.saved {
            list.push((keys::plain(parameter), tensor.clone()));
        }
        for (parameter, tensor) in &self.biases {
            let module = parameter.strip_suffix(".bias").unwrap_or(parameter);
            list.push((keys::bias(module, self.layers.contains_key(module)), tensor.clone()));
        }
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// How much of the host this adapter trains.
    pub fn report(&self, host: &dyn Host) -> Report {
        report::of(self, host)
    }
}

pub(crate) use magnitude::no_magnitude_on;
pub use method::NO_TARGETS;
pub(crate) use method::check as check_method;

/// Base weights by layer.
fn weights(host: &dyn Host) -> BTreeMap<String, Tensor> {
    let mut weights = BTreeMap::new();
    host.visit(&mut |m| drop(weights.insert(m.name().to_string(), m.base_weight().clone())));
    weights
}

fn sizes(m: &Info, rank: usize) -> Result<Sizes> {
    let Some((a, b)) = m.pair(rank) else {
        return Err(Error::targets(format!("`{}` of shape {:?} cannot carry a pair", m.name, m.shape)));
    };
    Ok(Sizes { kind: m.kind, k: a[1], n: b[0], r: rank })
}

/// The name becomes a directory and a part of keys.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', '\\', '.']) || name.chars().any(char::is_control) {
        return Err(Error::adapter(format!(
            "`{name}` is no name for an adapter: no dots, slashes or control characters"
        )));
    }
    Ok(())
}

/// Every layer with its rank and α.
pub(crate) fn ranks_and_alphas(config: &LoraConfig, layers: Vec<Info>) -> Result<Vec<(Info, usize, f64)>> {
    let ranks = Lookup::new("rank_pattern", &config.rank_pattern)?;
    let alphas = Lookup::new("alpha_pattern", &config.alpha_pattern)?;
    let of = |m: Info| {
        let (r, alpha) = (ranks.get(&m.name).unwrap_or(config.r), alphas.get(&m.name).unwrap_or(config.alpha));
        (m, r, alpha)
    };
    Ok(layers.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests;
