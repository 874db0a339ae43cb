//! The model's rotary tables: what `config.json` says about them, and tables that grow with the longest sequence seen.

use std::sync::{PoisonError, RwLock};

use lowrank_core::ops::{Llama3Scaling, RopeTables};
use lowrank_core::{DType, Device};

use super::LlamaConfig;
use super::fields::Fields;
use crate::Result;

/// `rope_theta` and the scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
pub(crate) fn settings(f: &Fields<'_>) -> Result<(f64, Option<Llama3Scaling>)> {
    let outer = theta(f)?;
    let (new, old) = (f.object("rope_parameters")?, f.object("rope_scaling")?);
    let inner = new.as_ref().map_or(Ok(None), theta)?;
    if let (Some(outer), Some(inner)) = (outer, inner)
        && outer != inner
    {
        return Err(f.error("rope_theta", format!("{outer}, but rope_parameters.rope_theta is {inner}")));
    }
    let new = new.map(|p| scaling(&p)).transpose()?;
    let old = old.map(|p| scaling(&p)).transpose()?;
    if let (Some(new), Some(old)) = (&new, &old)
        && new != old
    {
        return Err(f.error("rope_scaling", "differs from rope_parameters"));
    }
    // 10000 is what Hugging Face takes where the field is absent.
    Ok((inner.or(outer).unwrap_or(10_000.0), new.or(old).flatten()))
}

fn theta(f: &Fields<'_>) -> Result<Option<f64>> {
    f.get("rope_theta").map(|_| f.number("rope_theta", None, 1.0..=1e12)).transpose()
}

fn scaling(p: &Fields<'_>) -> Result<Option<Llama3Scaling>> {
    let field = if p.get("rope_type").is_some() { "rope_type" } else { "type" };
    if let Some(part) = p.get("partial_rotary_factor")
        && part.as_f64() != Some(1.0)
    {
        return Err(p.error("partial_rotary_factor", format!("{part} is not supported; 1 is")));
    }
    match p.text(field)? {
        Some("default") => Ok(None),
        Some("llama3") => {
            let s = Llama3Scaling {
                factor: p.number("factor", None, 1.0..=1e6)?,
                low_freq_factor: p.number("low_freq_factor", None, 1e-6..=1e6)?,
                high_freq_factor: p.number("high_freq_factor", None, 1e-6..=1e6)?,
                original_max_position_embeddings: p.size("original_max_position_embeddings", None, 1 << 24)?,
            };
            if s.high_freq_factor <= s.low_freq_factor {
                let detail = format!("{} is not above low_freq_factor = {}", s.high_freq_factor, s.low_freq_factor);
                return Err(p.error("high_freq_factor", detail));
            }
            Ok(Some(s))
        }
        Some(other) => Err(p.error(field, format!("`{other}` is not supported; default and llama3 are"))),
        None => Err(p.error("rope_type", "is missing")),
    }
}

/// Positions that tables are made for at first. A long-context model's full tables can take longer to compute than the
/// rest of its loading, and gigabytes if its file lies; most sequences are short.
const FIRST: usize = 2048;

/// Tables for the positions used so far.
pub(crate) struct Rope {
    tables: RwLock<RopeTables>,
    config: LlamaConfig,
    dtype: DType,
    device: Device,
}

impl Rope {
    pub(crate) fn new(config: &LlamaConfig, dtype: DType, device: &Device) -> Result<Self> {
        let tables = RwLock::new(make(config, FIRST.min(config.max_position_embeddings), dtype, device)?);
        Ok(Rope { tables, config: config.clone(), dtype, device: device.clone() })
    }

    /// Tables of at least `positions` positions, which the caller has checked to be at most the model's.
    pub(crate) fn at_least(&self, positions: usize) -> Result<RopeTables> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner).clone();
        if tables.positions() >= positions {
            return Ok(tables);
        }
        let rows = self.rows(positions);
        let tables = make(&self.config, rows, self.dtype, &self.device)?;
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables.clone();
        Ok(tables)
    }
}

impl Rope {
    /// Rows of the tables that serve this many positions.
    fn rows(&self, positions: usize) -> usize {
        positions.next_power_of_two().max(FIRST).min(self.config.max_position_embeddings)
    }

    /// Bytes of the tables that serve this many positions.
    pub(crate) fn bytes(&self, positions: usize) -> usize {
        let rows = self.tables.read().unwrap_or_else(PoisonError::into_inner).positions().max(self.rows(positions));
        rows * self.config.head_dim * self.dtype.size()
    }
}

fn make(config: &LlamaConfig, positions: usize, dtype: DType, device: &Device) -> Result<RopeTables> {
    let LlamaConfig { head_dim, rope_theta, rope_scaling, .. } = config;
    Ok(RopeTables::new(positions, *head_dim, *rope_theta, rope_scaling.as_ref(), dtype, device)?)
}
