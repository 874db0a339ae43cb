//! Hosts for tests (one with an embedding, two blocks of q_proj and v_proj, a norm and a tied head; one of linear layers
//! only), and matrices with a planted spectrum.

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};

use crate::linalg::Matrix;
use crate::{Embedding, Host, Linear, Module, ModuleMut, Norm};

pub(crate) const VOCAB: usize = 11;
pub(crate) const DIM: usize = 6;

pub(crate) struct Tiny {
    device: Device,
    dtype: DType,
    pub embed: Embedding,
    pub blocks: Vec<[Linear; 2]>,
    pub norm: Norm,
    pub head: Linear,
}

impl Tiny {
    /// Storage of the weights in `dtype`; activations f32.
    pub(crate) fn new(dtype: DType) -> Self {
        let device = Device::reference().unwrap();
        let mut rng = Rng::new(1, 0);
        let mut random = |shape: &[usize], dtype| {
            let data: Vec<f64> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
            Tensor::from_f64(&data, shape, dtype, &device).unwrap()
        };
        let embed = Embedding::new("model.embed_tokens", random(&[VOCAB, DIM], dtype));
        let blocks = (0..2)
            .map(|i| {
                let q = format!("model.layers.{i}.self_attn.q_proj");
                let v = format!("model.layers.{i}.self_attn.v_proj");
                let bias = random(&[4], DType::F32);
                [Linear::new(q, random(&[DIM, DIM], dtype), None), Linear::new(v, random(&[4, DIM], dtype), Some(bias))]
            })
            .collect();
        let norm = Norm::new("model.norm", random(&[DIM], DType::F32), None, 1e-5);
        let head = Linear::new("lm_head", embed.weight().clone(), None);
        Tiny { device, dtype: DType::F32, embed, blocks, norm, head }
    }

    pub(crate) fn q(&self, block: usize) -> &Linear {
        &self.blocks[block][0]
    }

    pub(crate) fn v(&self, block: usize) -> &Linear {
        &self.blocks[block][1]
    }
}

impl Host for Tiny {
    fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        f(Module::Embedding(&self.embed));
        for layer in self.blocks.iter().flatten() {
            f(Module::Linear(layer));
        }
        f(Module::Norm(&self.norm));
        f(Module::Linear(&self.head));
    }

    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        f(ModuleMut::Embedding(&mut self.embed));
        for layer in self.blocks.iter_mut().flatten() {
            f(ModuleMut::Linear(layer));
        }
        f(ModuleMut::Norm(&mut self.norm));
        f(ModuleMut::Linear(&mut self.head));
    }

    fn output_head(&self) -> Option<&str> {
        Some("lm_head")
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn model_type(&self) -> &str {
        "tiny"
    }

    fn base_name(&self) -> Option<&str> {
        None
    }
}

/// Standard normal elements.
pub(crate) fn random(rows: usize, cols: usize, seed: u64) -> Matrix {
    let mut rng = Rng::new(seed, 0);
    Matrix::new(rows, cols, (0..rows * cols).map(|_| rng.normal()).collect()).unwrap()
}

/// Orthonormal columns by Gram–Schmidt, twice: independent of what is tested.
pub(crate) fn orthonormal_columns(rows: usize, cols: usize, seed: u64) -> Matrix {
    let a = random(rows, cols, seed);
    let column = |j: usize| -> Vec<f64> { (0..rows).map(|i| a.data[i * cols + j]).collect() };
    let mut done: Vec<Vec<f64>> = Vec::new();
    for j in 0..cols {
        let mut v = column(j);
        for _ in 0..2 {
            for q in &done {
                let c: f64 = q.iter().zip(&v).map(|(x, y)| x * y).sum();
                v.iter_mut().zip(q).for_each(|(x, y)| *x -= c * y);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        done.push(v.into_iter().map(|x| x / norm).collect());
    }
    let data = (0..rows * cols).map(|i| done[i % cols][i / cols]).collect();
    Matrix::new(rows, cols, data).unwrap()
}

/// `U diag(s) Vᵀ` of shape n×k with random orthonormal U and V: U diag(s) and V.
pub(crate) fn planted(n: usize, k: usize, s: &[f64], seed: u64) -> (Matrix, Matrix) {
    let (u, v) = (orthonormal_columns(n, s.len(), seed), orthonormal_columns(k, s.len(), seed + 1));
    (u.scale_columns(s), v)
}

/// Independent linear layers: `l0`, `l1`, … of random weights `[n,k]`.
pub(crate) struct Layers {
    device: Device,
    dtype: DType,
    pub layers: Vec<Linear>,
}

impl Layers {
    pub(crate) fn new(sizes: &[(usize, usize)], dtype: DType, device: &Device) -> Self {
        let layer = |(i, &(n, k)): (usize, &(usize, usize))| {
            let weight = random(n, k, 100 + i as u64).scaled(0.02).to_tensor(dtype, device).unwrap();
            Linear::new(format!("l{i}"), weight, None)
        };
        Layers { device: device.clone(), dtype, layers: sizes.iter().enumerate().map(layer).collect() }
    }
}

impl Host for Layers {
    fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        self.layers.iter().for_each(|l| f(Module::Linear(l)));
    }

    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        self.layers.iter_mut().for_each(|l| f(ModuleMut::Linear(l)));
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
        "layers"
    }

    fn base_name(&self) -> Option<&str> {
        None
    }
}
