//! A small host for tests: embedding, two blocks of q_proj and v_proj, a norm, a tied head.

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};

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
