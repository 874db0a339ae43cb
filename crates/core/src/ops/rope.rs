//! Rotary position embedding (Su et al. 2021, "RoFormer"), half-split: element i of a head turns with element i + D/2.

use std::f64::consts::TAU;

use lowrank_backend::{DType, Error, Result, Rope as Op};

use crate::ops::check;
use crate::{Device, Grads, Rule, Tensor};

/// How Llama 3 stretches its frequencies to contexts longer than it was trained on first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// What slow frequencies are divided by.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are slow.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// Context length of the first training, in positions.
    pub original_max_position_embeddings: usize,
}

impl Llama3Scaling {
    /// The frequency (radians per position) used in place of `frequency`: as it is, divided by the factor, or in
    /// between, by its wavelength.
    pub fn apply(&self, frequency: f64) -> f64 {
        let original = self.original_max_position_embeddings as f64;
        let wavelength = TAU / frequency;
        if wavelength < original / self.high_freq_factor {
            frequency
        } else if wavelength > original / self.low_freq_factor {
            frequency / self.factor
        } else {
            let span = self.high_freq_factor - self.low_freq_factor;
            let smooth = (original / wavelength - self.low_freq_factor) / span;
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// Cosines and sines of every position's angles.
#[derive(Clone, Debug)]
pub struct RopeTables {
    /// `[positions, dim/2]`
    pub cos: Tensor,
    /// `[positions, dim/2]`
    pub sin: Tensor,
}

impl RopeTables {
    /// Tables for heads of `dim` (even) elements: the angle of pair i at position t is `t · theta^(−2i/dim)`, its
    /// frequency scaled as said. Computed on the host in f64 and rounded to `dtype`.
    pub fn new(
        positions: usize,
        dim: usize,
        theta: f64,
        scaling: Option<&Llama3Scaling>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        if dim == 0 || !dim.is_multiple_of(2) {
            return Err(Error::invalid("rope", format!("head dimension {dim} is not even and positive")));
        }
        if !(theta.is_finite() && theta > 0.0) {
            return Err(Error::invalid("rope", format!("theta = {theta} is not positive")));
        }
        if let Some(s) = scaling {
            let positive = [s.factor, s.low_freq_factor, s.high_freq_factor].iter().all(|f| f.is_finite() && *f > 0.0);
            if !positive || s.high_freq_factor <= s.low_freq_factor || s.original_max_position_embeddings == 0 {
                return Err(Error::invalid("rope", format!("{s:?} has factors that are not positive and ascending")));
            }
        }
        let half = dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| theta.powf(-((2 * i) as f64) / dim as f64))
            .map(|f| scaling.map_or(f, |s| s.apply(f)))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f64> =
                (0..positions).flat_map(|t| frequencies.iter().map(move |w| f(t as f64 * w))).collect();
            Tensor::from_f64(&values, &[positions, half], dtype, device)
        };
        Ok(RopeTables { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Positions that the tables have.
    pub fn positions(&self) -> usize {
        self.cos.shape()[0]
    }
}

impl Tensor {
    /// Turns every head by its position. x is `[B,T,H,D]`; row t of a sequence is at position `start + t`, which must
    /// be in the tables.
    pub fn rope(&self, tables: &RopeTables, start: usize) -> Result<Tensor> {
        const OP: &str = "rope";
        let RopeTables { cos, sin } = tables;
        check::same_device(OP, &[self, cos, sin])?;
        check::float(OP, self)?;
        check::beside(OP, self, &[cos, sin])?;
        let (&[batch, seq, heads, dim], &[positions, half]) = (self.shape(), cos.shape()) else {
            let detail = format!("{} is not [B,T,H,D], or {} no matrix", self.label("x"), cos.label("cos"));
            return Err(Error::shape(OP, detail));
        };
        check::shape(OP, "sin", sin, cos.shape())?;
        if dim != 2 * half {
            return Err(Error::shape(OP, format!("{} does not fit {}", self.label("x"), cos.label("cos"))));
        }
        if start.checked_add(seq).is_none_or(|end| end > positions) {
            let detail =
                format!("positions {start} .. {start}+{seq} of {}, the tables have {positions}", self.label("x"));
            return Err(Error::shape(OP, detail));
        }
        let op = Op { batch, seq, heads, dim, start, positions, inverse: false };
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        let backend = self.device().backend();
        backend.rope(&op, self.read().view(), cos.read().view(), sin.read().view(), y.write().set())?;
        Ok(y.with_rule(&[self], || Rope { op, tables: tables.clone() }))
    }
}

struct Rope {
    op: Op,
    tables: RopeTables,
}

impl Rule for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let RopeTables { cos, sin } = &self.tables;
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let op = Op { inverse: true, ..self.op };
            gy.device().backend().rope(&op, gy.read().view(), cos.read().view(), sin.read().view(), slot)?;
        }
        grads.put(dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALING: Llama3Scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    /// Wavelengths 1024 (below 8192/4), 16384 (above 8192/1) and 4096 (smooth = (2 − 1)/3).
    #[test]
    fn llama3_scaling_by_hand() {
        assert_eq!(SCALING.apply(TAU / 1024.0), TAU / 1024.0);
        assert_eq!(SCALING.apply(TAU / 16384.0), TAU / 16384.0 / 8.0);
        let f = TAU / 4096.0;
        let between = f * (2.0 / 3.0 / 8.0 + 1.0 / 3.0);
        assert!((SCALING.apply(f) - between).abs() < 1e-15, "{}", SCALING.apply(f));
    }

    /// One head of two elements at position 1 with theta anything: the angle is 1.
    #[test]
    fn turns_by_the_position() -> Result<()> {
        let device = Device::reference()?;
        let tables = RopeTables::new(2, 2, 10000.0, None, DType::F64, &device)?;
        let x = Tensor::from_slice(&[3.0f64, 4.0], &[1, 1, 1, 2], &device)?.trainable()?;
        let y = x.rope(&tables, 1)?;
        let (s, c) = 1f64.sin_cos();
        for (got, want) in y.to_f64()?.iter().zip([3.0 * c - 4.0 * s, 4.0 * c + 3.0 * s]) {
            assert!((got - want).abs() < 1e-12);
        }
        let detail = x.rope(&tables, 2).unwrap_err().to_string();
        assert!(detail.contains("positions 2") && detail.contains("have 2"), "{detail}");
        Ok(())
    }
}
