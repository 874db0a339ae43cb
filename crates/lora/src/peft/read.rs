//! From the two files to an adapter, with nothing missing and nothing left over.

use std::collections::BTreeMap;

use lowrank_core::{DType, Tensor};

use super::config::{self, Parsed};
use super::keys::{self, Part};
use crate::adapter::{check_name, no_magnitude_on, ranks_and_alphas};
use crate::host::{Info, infos};
use crate::scalar::{element, host_bytes, rounded};
use crate::targets::{Lookup, families, select};
use crate::{Adapter, Bias, Error, Host, LowRank, Result, TensorFile};

pub(super) fn adapter(
    name: &str,
    config_file: &str,
    config: &str,
    tensors_file: &str,
    tensors: &[u8],
    host: &dyn Host,
) -> Result<Adapter> {
    check_name(name)?;
    let parsed = config::parse(config_file, config)?;
    let file = TensorFile::parse(tensors_file, tensors)?;
    let infos = infos(host);
    let in_config = |e: Error| e.in_file(config_file);
    let selection = select(&infos, &parsed.config, false).map_err(in_config)?;
    unambiguous(&parsed, &selection.targeted).map_err(in_config)?;
    let mut reader = Reader { parts: parts(&file, &infos)?, file, host, config_file, base: base_tensors(host) };
    if selection.targeted.is_empty() && selection.saved.is_empty() {
        let detail = format!(
            "target_modules: {} matches no module of the model; there are {}",
            parsed.config.targets,
            families(&infos)
        );
        return Err(Error::file(config_file, detail));
    }
    let layers = ranks_and_alphas(&parsed.config, selection.targeted).map_err(in_config)?;
    let config = parsed.config;
    let mut adapter = Adapter {
        name: name.to_string(),
        config,
        layers: BTreeMap::new(),
        bottlenecks: BTreeMap::new(),
        saved: BTreeMap::new(),
        biases: BTreeMap::new(),
    };
    for (m, rank, alpha) in &layers {
        no_magnitude_on(m, adapter.config.use_dora).map_err(in_config)?;
        let (a, b) = reader.pair(m, *rank)?;
        let magnitude = if adapter.config.use_dora { Some(reader.magnitude(m)?) } else { None };
        let (config, alpha, rank) = (&adapter.config, *alpha, *rank);
        let scale = config.scale(rank, alpha);
        let pair = LowRank { a, b, magnitude, scale, dropout: config.dropout, rank, alpha, kind: m.kind, offset: None };
        adapter.layers.insert(m.name.clone(), pair);
        reader.same_as_base(m, Part::Weight)?;
    }
    for m in &selection.saved {
        for part in [Part::Weight, Part::Bias] {
            if part == Part::Weight || m.bias {
                let parameter = parameter(&m.name, part);
                adapter.saved.insert(parameter.clone(), reader.whole(m, part, keys::plain(&parameter))?);
            }
        }
        reader.parts.remove(&(m.name.clone(), Part::OriginalWeight));
        reader.parts.remove(&(m.name.clone(), Part::OriginalBias));
    }
    for m in &infos {
        let has_pair = adapter.layers.contains_key(&m.name);
        let trained = match adapter.config.bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => has_pair,
        };
        if trained && m.bias && reader.parts.contains_key(&(m.name.clone(), Part::Bias)) {
            let bias = reader.whole(m, Part::Bias, keys::bias(&m.name, has_pair))?;
            adapter.biases.insert(parameter(&m.name, Part::Bias), bias);
        } else if has_pair {
            reader.same_as_base(m, Part::Bias)?;
        } else if m.head || m.kind == crate::Kind::Embedding {
            // PEFT adds the embeddings to the file whenever it cannot be sure that the vocabulary is the base's.
            reader.same_as_base(m, Part::Weight)?;
            reader.same_as_base(m, Part::Bias)?;
        }
    }
    reader.nothing_left()?;
    Ok(adapter)
}

fn parameter(module: &str, part: Part) -> String {
    format!("{module}.{}", if part == Part::Bias { "bias" } else { "weight" })
}

/// PEFT tries a pattern's keys in the file's order, which is the sorted one unless somebody wrote it by hand. Refused if
/// the two give different values.
fn unambiguous(parsed: &Parsed, targets: &[Info]) -> Result<()> {
    fn check<T: Copy + PartialEq>(
        field: &str,
        map: &BTreeMap<String, T>,
        order: &[String],
        targets: &[Info],
    ) -> Result<()> {
        let here = Lookup::new(field, map)?;
        let there = Lookup::new(field, order.iter().filter_map(|k| map.get_key_value(k)))?;
        match targets.iter().find(|m| here.get(&m.name) != there.get(&m.name)) {
            Some(m) => {
                let detail = format!("several keys match `{}` with different values; sort the keys", m.name);
                Err(Error::config(field, detail))
            }
            None => Ok(()),
        }
    }
    check("rank_pattern", &parsed.config.rank_pattern, &parsed.rank_order, targets)?;
    check("alpha_pattern", &parsed.config.alpha_pattern, &parsed.alpha_order, targets)
}

/// Keys by module and part; a key that is not understood, or names no module of the model, is an error.
fn parts(file: &TensorFile<'_>, infos: &[Info]) -> Result<BTreeMap<(String, Part), String>> {
    let mut parts = BTreeMap::new();
    for key in file.names() {
        let bad = |why: String| Error::file(file.file_name(), format!("tensor `{key}`: {why}"));
        let (module, part) = keys::parse(key).map_err(bad)?;
        if !infos.iter().any(|m| m.name == module) {
            return Err(bad(format!("the model has no module `{module}`; there are {}", families(infos))));
        }
        if let Some(other) = parts.insert((module, part), key.to_string()) {
            return Err(bad(format!("says the same as `{other}`")));
        }
    }
    Ok(parts)
}

fn base_tensors(host: &dyn Host) -> BTreeMap<String, Tensor> {
    let mut base = BTreeMap::new();
    host.visit(&mut |m| {
        base.insert(parameter(m.name(), Part::Weight), m.base_weight().clone());
        if let Some(bias) = m.base_bias() {
            base.insert(parameter(m.name(), Part::Bias), bias.clone());
        }
    });
    base
}

struct Reader<'a> {
    file: TensorFile<'a>,
    /// Keys not yet used.
    parts: BTreeMap<(String, Part), String>,
    host: &'a dyn Host,
    config_file: &'a str,
    base: BTreeMap<String, Tensor>,
}

impl Reader<'_> {
    fn bad(&self, key: &str, detail: String) -> Error {
        Error::file(self.file.file_name(), format!("tensor `{key}` {detail}"))
    }

    fn take(&mut self, m: &Info, part: Part, canonical: &str) -> Result<String> {
        let missing = || {
            let (field, verb) = match part {
                Part::Weight | Part::Bias => ("modules_to_save", "saves"),
                Part::Magnitude => ("use_dora", "wants it for"),
                _ => ("target_modules", "selects"),
            };
            let detail = format!("is missing; {field} of {} {verb} `{}`", self.config_file, m.name);
            Error::file(self.file.file_name(), format!("tensor `{canonical}` {detail}"))
        };
        self.parts.remove(&(m.name.clone(), part)).ok_or_else(missing)
    }

    fn leaf(&self, key: &str, canonical: String, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.file.load(key, shape, self.host.dtype(), self.host.device())?;
        Ok(tensor.named(canonical).trainable()?)
    }

    fn pair(&mut self, m: &Info, rank: usize) -> Result<(Tensor, Tensor)> {
        let (a_name, b_name) = (keys::a(&m.name, m.kind), keys::b(&m.name, m.kind));
        let Some((a_shape, b_shape)) = m.pair(rank) else {
            return Err(Error::adapter(format!("`{}` of shape {:?} cannot carry a pair", m.name, m.shape)));
        };
        let a_key = self.take(m, Part::a(m.kind), &a_name)?;
        let b_key = self.take(m, Part::b(m.kind), &b_name)?;
        for (key, at) in [(&a_key, 0), (&b_key, 1)] {
            let shape = self.file.shape(key)?;
            if let Some(&have) = shape.get(at)
                && have != rank
            {
                let detail = format!("has rank {have} (shape {shape:?}), but {} says {rank}", self.config_file);
                return Err(self.bad(key, detail));
            }
        }
        Ok((self.leaf(&a_key, a_name, &a_shape)?, self.leaf(&b_key, b_name, &b_shape)?))
    }

    fn magnitude(&mut self, m: &Info) -> Result<Tensor> {
        let name = keys::magnitude(&m.name);
        let key = self.take(m, Part::Magnitude, &name)?;
        self.leaf(&key, name, &m.shape[..1])
    }

    /// A weight or bias that takes the base's place.
    fn whole(&mut self, m: &Info, part: Part, canonical: String) -> Result<Tensor> {
        let key = self.take(m, part, &canonical)?;
        let shape = if part == Part::Bias { &m.shape[..1] } else { &m.shape[..] };
        self.leaf(&key, canonical, shape)
    }

    /// The base's own values may be in the file: equal ones are dropped, others refused.
    fn same_as_base(&mut self, m: &Info, part: Part) -> Result<()> {
        let Some(key) = self.parts.remove(&(m.name.clone(), part)) else { return Ok(()) };
        let Some(base) = self.base.get(&parameter(&m.name, part)) else {
            return Err(self.bad(&key, format!("has no counterpart: `{}` has no bias", m.name)));
        };
        if self.file.shape(&key)? != base.shape() {
            let detail = format!("has shape {:?}, the model's has {:?}", self.file.shape(&key)?, base.shape());
            return Err(self.bad(&key, detail));
        }
        let (dtype, bytes) = self.file.raw(&key)?;
        match first_difference((dtype, bytes), (base.dtype(), &host_bytes(base)?)) {
            Some(i) => Err(self.bad(
                &key,
                format!("differs from the model's weights at element {i}: the adapter belongs to another base"),
            )),
            None => Ok(()),
        }
    }

    fn nothing_left(&self) -> Result<()> {
        let Some(((module, part), key)) = self.parts.iter().next() else { return Ok(()) };
        let why = match part {
            Part::Magnitude => "use_dora",
            Part::A | Part::B | Part::EmbeddingA | Part::EmbeddingB => "target_modules",
            _ => "modules_to_save",
        };
        Err(self.bad(key, format!("has no place: {why} of {} does not select `{module}` for it", self.config_file)))
    }
}

/// The first element that differs, when both are seen at the narrower of the two precisions (either may have been
/// rounded from the other).
fn first_difference(file: (DType, &[u8]), base: (DType, &[u8])) -> Option<usize> {
    if file == base {
        return None;
    }
    (0..file.1.len() / file.0.size()).find(|&i| {
        let (x, y) = (element(file.1, file.0, i), element(base.1, base.0, i));
        x != y && rounded(x, base.0) != y && x != rounded(y, file.0)
    })
}
