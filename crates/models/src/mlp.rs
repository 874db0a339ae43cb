//! The textbook network: a linear layer, ReLU, a linear layer.

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Host, Linear, Module, ModuleMut};

use crate::{Result, invalid};

/// `fc2(relu(fc1(x)))`.
///
/// # Example
///
/// fc1 becomes a frozen layer with a low-rank branch, and one step of training is taken:
///
/// ```
/// use lowrank_core::optim::{AdamW, AdamWOptions, Group};
/// use lowrank_core::{DType, Device, Tensor};
/// use lowrank_lora::{Adapter, LoraConfig, Targets, attach};
/// use lowrank_models::Mlp;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::reference()?; // Device::cpu()? is the fast one
/// let mut mlp = Mlp::new(4, 16, 3, 0, &device, DType::F32)?;
///
/// let config = LoraConfig { r: 2, targets: Targets::List(vec!["fc1".into()]), ..LoraConfig::default() };
/// let adapter = Adapter::create(&mlp, "default", config, 0)?;
/// attach(&mut mlp, &adapter)?;
///
/// let x = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.1, 1.5, 0.3, -0.7, 0.9], &[2, 4], &device)?;
/// let targets = Tensor::targets(&[2, 0], &[2], 3, &device)?;
/// let group = Group { params: adapter.parameters(), lr: 1e-2, weight_decay: 0.0 };
/// let mut optimizer = AdamW::new(vec![group], AdamWOptions::default())?;
///
/// let before = mlp.forward(&x)?.cross_entropy(&targets, 2.0)?; // the mean over two rows
/// before.backward()?;
/// optimizer.step(1.0, None)?;
/// let after = mlp.forward(&x)?.cross_entropy(&targets, 2.0)?;
/// assert!(after.item()? < before.item()?);
/// # Ok(())
/// # }
/// ```
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    device: Device,
    dtype: DType,
}

impl Mlp {
    /// Frozen random layers: weights and biases uniform in ±1/√inputs of the layer. `dtype` is f32 or f64, that of the
    /// inputs too. The same seed gives the same network on every device.
    pub fn new(inputs: usize, hidden: usize, outputs: usize, seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        if inputs == 0 || hidden == 0 || outputs == 0 {
            return Err(invalid("Mlp", format!("a size of 0 in {inputs} → {hidden} → {outputs}")));
        }
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(invalid("Mlp", format!("dtype {dtype} is neither f32 nor f64")));
        }
        let layer = |name: &str, stream: u32, n: usize, k: usize| -> Result<Linear> {
            let mut rng = Rng::new(seed, stream);
            let bound = 1.0 / (k as f64).sqrt();
            let mut draw = |shape: &[usize]| -> Result<Tensor> {
                let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                let count = count.ok_or_else(|| invalid("Mlp", format!("{name}: shape {shape:?} overflows")))?;
                let values: Vec<f64> = (0..count).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect();
                Ok(Tensor::from_f64(&values, shape, dtype, device)?)
            };
            let weight = draw(&[n, k])?.named(format!("{name}.weight"));
            let bias = draw(&[n])?.named(format!("{name}.bias"));
            Ok(Linear::new(name, weight, Some(bias)))
        };
        let (fc1, fc2) = (layer("fc1", 0, hidden, inputs)?, layer("fc2", 1, outputs, hidden)?);
        Mlp::from_layers(fc1, fc2)
    }

    /// From layers of your own, whose weights may be trainable. fc1's outputs are fc2's inputs.
    pub fn from_layers(fc1: Linear, fc2: Linear) -> Result<Self> {
        if fc1.out_features() != fc2.in_features() {
            let detail = format!("fc1 has {} outputs, fc2 {} inputs", fc1.out_features(), fc2.in_features());
            return Err(invalid("Mlp", detail));
        }
        let device = fc1.weight().device().clone();
        let dtype = if fc1.weight().dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok(Mlp { fc1, fc2, device, dtype })
    }

    /// x `[…, inputs]` → `[…, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(x)?.relu()?)
    }

    /// The first layer.
    pub fn fc1(&self) -> &Linear {
        &self.fc1
    }

    /// The second layer.
    pub fn fc2(&self) -> &Linear {
        &self.fc2
    }
}

impl Host for Mlp {
    fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        f(Module::Linear(&self.fc1));
        f(Module::Linear(&self.fc2));
    }

    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        f(ModuleMut::Linear(&mut self.fc1));
        f(ModuleMut::Linear(&mut self.fc2));
    }

    fn output_head(&self) -> Option<&str> {
        None
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn model_type(&self) -> &str {
        "mlp"
    }

    fn base_name(&self) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W₁ = [[1, 2], [−1, 1]], b₁ = [0, −1], W₂ = [[3, −2]], b₂ = [½].
    /// At x = [1, 1]: h = relu([3, −1]) = [3, 0], y = 9½; at [−1, 3]: h = relu([5, 3]), y = 15 − 6 + ½.
    #[test]
    fn forward_by_hand() {
        let d = Device::reference().unwrap();
        let t = |v: &[f64], shape: &[usize]| Tensor::from_slice(v, shape, &d).unwrap();
        let fc1 = Linear::new("fc1", t(&[1., 2., -1., 1.], &[2, 2]), Some(t(&[0., -1.], &[2])));
        let fc2 = Linear::new("fc2", t(&[3., -2.], &[1, 2]), Some(t(&[0.5], &[1])));
        let y = Mlp::from_layers(fc1, fc2).unwrap().forward(&t(&[1., 1., -1., 3.], &[2, 2])).unwrap();
        assert_eq!((y.shape(), y.to_f64().unwrap()), (&[2, 1][..], vec![9.5, 9.5]));
    }

    #[test]
    fn new_is_seeded_and_bounded() {
        let d = Device::reference().unwrap();
        let weights = |seed| Mlp::new(4, 8, 2, seed, &d, DType::F64).unwrap().fc1().weight().to_f64().unwrap();
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
        assert!(weights(1).iter().all(|w| w.abs() <= 0.5));
        assert!(Mlp::new(0, 8, 2, 1, &d, DType::F64).is_err());
        assert!(Mlp::new(4, 8, 2, 1, &d, DType::BF16).is_err());
    }

    #[test]
    fn layers_must_fit() {
        let d = Device::reference().unwrap();
        let layer = |name: &str, n, k| Linear::new(name, Tensor::zeros(&[n, k], DType::F32, &d).unwrap(), None);
        let error = Mlp::from_layers(layer("fc1", 3, 2), layer("fc2", 1, 4)).err().unwrap().to_string();
        assert!(error.contains('3') && error.contains('4'), "{error}");
    }
}
