//! A row of the table of cases: one way to call one operation, and what must come out.

use std::sync::OnceLock;

use half::{bf16, f16};
use lowrank_core::{DType, Device, Result, Tensor};

use crate::devices::Target;
use crate::random::Random;

/// Host values of every input or output, in the order of the row.
pub type Values = Vec<Vec<f64>>;

type Build = Box<dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync>;
type Oracle = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64> + Send + Sync>;

/// One row.
pub struct Case {
    /// Stem of the operation's rule file in `crates/core/src/ops`.
    pub op: &'static str,
    /// What is special about this row: sizes, flags.
    pub variant: String,
    /// What the operation takes.
    pub inputs: Vec<Input>,
    /// The call.
    pub build: Build,
    /// The definition by plain loops in f64, knowing nothing of lowrank.
    pub oracle: Oracle,
    /// How far results may be off.
    pub bound: Bound,
    /// The same for gradients, where it is not `bound`.
    pub grad_bound: Option<Bound>,
    /// Integer inputs give results and gradients that are exact in f32.
    pub exact: bool,
    /// Linear in each differentiable input: a difference quotient of any step is the derivative.
    pub multilinear: bool,
    /// Elements of the result, once known.
    len: OnceLock<usize>,
}

/// An input of a row.
#[derive(Clone, Debug)]
pub struct Input {
    /// Sizes.
    pub shape: Vec<usize>,
    /// What values it takes.
    pub kind: Kind,
    /// Whether a gradient is checked.
    pub grad: bool,
}

/// What values an input takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// [-1, 1)
    Unit,
    /// [-6, 6): functions whose tails matter.
    Wide,
    /// [0.5, 2)
    Positive,
    /// ±[0.05, 1): functions with a kink at 0.
    OffZero,
    /// [99, 101): what cancels shows.
    Shifted,
    /// [-1, 1) in a storage dtype, whatever the device computes in.
    Stored(DType),
    /// u32 below this.
    Ids(u32),
    /// u32 below this, every third one to be ignored.
    Targets(u32),
}

/// How far a result may be from the true one. `unit` is half an ulp at 1.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// Not at all: elements are moved, not computed.
    Moved,
    /// `(terms + 4) · unit · |x||W|`: a sum of `terms` products; magnitudes are the oracle on absolute inputs.
    Product(usize),
    /// This many units of each element.
    Each(f64),
    /// This many units of the largest element.
    Largest(f64),
    /// The same, and four roundings of operands: those of q and k, which move scores and so probabilities, of the
    /// probabilities and of v; likewise in gradients.
    Attention(f64),
    /// This many units of 1: functions that come near 0 by cancellation.
    Absolute(f64),
}

/// A tensor input.
pub fn float(shape: &[usize]) -> Input {
    Input { shape: shape.to_vec(), kind: Kind::Unit, grad: true }
}

/// A weight in a storage dtype, frozen.
pub fn stored(shape: &[usize], dtype: DType) -> Input {
    Input { shape: shape.to_vec(), kind: Kind::Stored(dtype), grad: false }
}

/// Token numbers below `below`.
pub fn ids(shape: &[usize], below: u32) -> Input {
    Input { shape: shape.to_vec(), kind: Kind::Ids(below), grad: false }
}

/// Classes below `vocab`, every third one ignored.
pub fn targets(n: usize, vocab: u32) -> Input {
    Input { shape: vec![n], kind: Kind::Targets(vocab), grad: false }
}

impl Input {
    /// The same with other values.
    pub fn of(self, kind: Kind) -> Self {
        Input { kind, ..self }
    }

    /// The same without a gradient.
    pub fn frozen(self) -> Self {
        Input { grad: false, ..self }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds numbers to compute with.
    pub fn is_float(&self) -> bool {
        !matches!(self.kind, Kind::Ids(_) | Kind::Targets(_))
    }

    fn draw(&self, random: &mut Random, integers: bool) -> Vec<f64> {
        (0..self.len())
            .map(|i| match (self.kind, integers) {
                (Kind::Ids(below), _) => random.integer(0, i64::from(below) - 1) as f64,
                (Kind::Targets(_), _) if i % 3 == 2 => f64::from(u32::MAX),
                (Kind::Targets(vocab), _) => random.integer(0, i64::from(vocab) - 1) as f64,
                (Kind::Positive, true) => random.integer(1, 4) as f64,
                (Kind::Positive, false) => random.uniform(0.5, 2.0),
                (_, true) => random.integer(-2, 2) as f64,
                (Kind::Shifted, false) => random.uniform(99.0, 101.0),
                (Kind::Wide, false) => random.uniform(-6.0, 6.0),
                (Kind::OffZero, false) => {
                    random.uniform(0.05, 1.0) * if random.integer(0, 1) == 0 { -1.0 } else { 1.0 }
                }
                (Kind::Stored(DType::BF16), false) => bf16::from_f64(random.uniform(-1.0, 1.0)).to_f64(),
                (Kind::Stored(DType::F16), false) => f16::from_f64(random.uniform(-1.0, 1.0)).to_f64(),
                (Kind::Stored(_) | Kind::Unit, false) => random.uniform(-1.0, 1.0),
            })
            .collect()
    }

    /// On a device; a trainable leaf where a gradient is checked.
    fn tensor(&self, values: &[f64], dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = match self.kind {
            Kind::Ids(_) | Kind::Targets(_) => {
                Tensor::from_slice(&values.iter().map(|&v| v as u32).collect::<Vec<_>>(), &self.shape, device)?
            }
            Kind::Stored(stored) => Tensor::from_f64(values, &self.shape, stored, device)?,
            _ => Tensor::from_f64(values, &self.shape, dtype, device)?,
        };
        if self.grad { tensor.trainable() } else { Ok(tensor) }
    }
}

/// What a row gave on a device.
pub struct Ran {
    /// The result.
    pub y: Vec<f64>,
    /// Gradient of Σ gy⊙y for each input; `None` for frozen ones.
    pub grads: Vec<Option<Vec<f64>>>,
}

impl Case {
    /// A row; by default its elements are moved, not computed.
    pub fn new(
        op: &'static str,
        variant: impl Into<String>,
        inputs: Vec<Input>,
        build: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
        oracle: impl Fn(&[Vec<f64>]) -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        Case {
            op,
            variant: variant.into(),
            inputs,
            build: Box::new(build),
            oracle: Box::new(oracle),
            bound: Bound::Moved,
            grad_bound: None,
            exact: false,
            multilinear: false,
            len: OnceLock::new(),
        }
    }

    /// The bound of results, and of gradients where `grad_bound` is not called.
    pub fn bound(self, bound: Bound) -> Self {
        Case { bound, ..self }
    }

    /// The bound of gradients.
    pub fn grad_bound(self, bound: Bound) -> Self {
        Case { grad_bound: Some(bound), ..self }
    }

    /// Integer inputs stay exact.
    pub fn exact(self) -> Self {
        Case { exact: true, ..self }
    }

    /// Exact, and linear in each input.
    pub fn multilinear(self) -> Self {
        Case { multilinear: true, exact: true, ..self }
    }

    /// How it is called in messages.
    pub fn name(&self) -> String {
        format!("{} {}", self.op, self.variant)
    }

    /// Whether anything is differentiable.
    pub fn has_grad(&self) -> bool {
        self.inputs.iter().any(|i| i.grad)
    }

    /// Random or integer values; the same on every call.
    pub fn values(&self, integers: bool) -> Values {
        let mut random = Random::of(&self.name());
        self.inputs.iter().map(|i| i.draw(&mut random, integers)).collect()
    }

    /// Elements of the result.
    pub fn output_len(&self) -> usize {
        *self.len.get_or_init(|| (self.oracle)(&self.values(false)).len())
    }

    /// Whether plain loops over it are quick enough to be run many times.
    pub fn is_small(&self) -> bool {
        self.inputs.iter().map(Input::len).sum::<usize>() <= 40_000
    }

    /// The inputs on a device that is at a fixed step, so that dropout masks repeat.
    pub fn tensors(&self, values: &[Vec<f64>], dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        self.inputs.iter().zip(values).map(|(i, v)| i.tensor(v, dtype, device)).collect()
    }

    /// The same, each input in a dtype of its own.
    pub fn tensors_of(
        &self,
        values: &[Vec<f64>],
        dtype: impl Fn(usize) -> DType,
        device: &Device,
    ) -> Result<Vec<Tensor>> {
        let inputs = self.inputs.iter().zip(values).enumerate();
        inputs.map(|(i, (input, values))| input.tensor(values, dtype(i), device)).collect()
    }

    /// Result and gradients on a device of the target's kind.
    pub fn run(&self, target: &Target, device: &Device, values: &[Vec<f64>], gy: Option<&[f64]>) -> Result<Ran> {
        let inputs = self.tensors(values, target.dtype(), device)?;
        self.run_on(&inputs, gy)
    }

    /// The same with tensors that are there already.
    pub fn run_on(&self, inputs: &[Tensor], gy: Option<&[f64]>) -> Result<Ran> {
        let device = inputs[0].device();
        device.begin_step(1)?;
        let result = (self.build)(inputs)?;
        let y = result.to_f64()?;
        if let (Some(gy), true) = (gy, self.has_grad()) {
            result.backward_with(Tensor::from_f64(gy, result.shape(), result.dtype(), device)?)?;
        }
        let grads = inputs.iter().map(|t| t.grad().map(|g| g.to_f64()).transpose()).collect::<Result<_>>()?;
        Ok(Ran { y, grads })
    }
}

impl Bound {
    /// What is allowed for each element, given true values and the magnitudes that a product has. `[unit, operands]`: the
    /// error of a rounding, and of what is rounded before it is multiplied. No term of the low-rank linear has more than
    /// four such factors: x, A, x̂Aᵀ and B, or gy, B, gy B and A.
    pub fn allowed(self, truth: &[f64], magnitudes: impl FnOnce() -> Vec<f64>, [unit, operands]: [f64; 2]) -> Vec<f64> {
        match self {
            Bound::Moved => vec![0.0; truth.len()],
            Bound::Product(terms) => {
                magnitudes().iter().map(|m| ((terms + 4) as f64 * unit + 4.1 * operands) * m.abs()).collect()
            }
            Bound::Each(ulps) => truth.iter().map(|y| ulps * unit * y.abs()).collect(),
            Bound::Absolute(ulps) => vec![ulps * unit; truth.len()],
            Bound::Largest(ulps) => {
                let largest = truth.iter().fold(0.0f64, |m, y| m.max(y.abs()));
                vec![ulps * unit * largest; truth.len()]
            }
            Bound::Attention(ulps) => {
                let largest = truth.iter().fold(0.0f64, |m, y| m.max(y.abs()));
                vec![(ulps * unit + 4.0 * operands) * largest; truth.len()]
            }
        }
    }
}

/// Absolute values, for magnitudes.
pub fn absolute(values: &[Vec<f64>]) -> Values {
    values.iter().map(|v| v.iter().map(|x| x.abs()).collect()).collect()
}
