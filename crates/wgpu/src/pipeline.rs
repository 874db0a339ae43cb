//! Compiled kernels, one per (file, entry point, constants), kept for the life of the device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lowrank_backend::Result;
use lowrank_shaders::Shader;

use crate::adapter::Context;

/// Bytes of a kernel's parameters, at most.
pub(crate) const PARAMS: u64 = 256;

/// Values of a kernel's `override` constants.
pub(crate) type Constants = Vec<(&'static str, u32)>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    shader: &'static str,
    entry: &'static str,
    constants: Constants,
    outputs: usize,
    inputs: usize,
}

/// A kernel ready to run.
pub(crate) struct Pipeline {
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// Distinguishes layouts in the keys of bind groups: kernels with equal counts share them.
    pub shape: (usize, usize),
}

type Layouts = HashMap<(usize, usize), (wgpu::BindGroupLayout, wgpu::PipelineLayout)>;

/// The cache.
#[derive(Default)]
pub(crate) struct Pipelines {
    ready: Mutex<HashMap<Key, Arc<Pipeline>>>,
    layouts: Mutex<Layouts>,
    modules: Mutex<HashMap<&'static str, wgpu::ShaderModule>>,
}

impl Context {
    /// The kernel `entry` of a file whose bindings are the parameters, `outputs` writable and `inputs` read-only buffers.
    pub fn pipeline(
        &self,
        shader: &Shader,
        entry: &'static str,
        constants: &Constants,
        outputs: usize,
        inputs: usize,
    ) -> Result<Arc<Pipeline>> {
        let key = Key { shader: shader.name, entry, constants: constants.clone(), outputs, inputs };
        let mut ready = self.pipelines.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = ready.get(&key) {
            return Ok(pipeline.clone());
        }
        let (layout, pipeline_layout) = self.layout(outputs, inputs);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.module(shader);
        let values: Vec<(&str, f64)> = constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &values, ..Default::default() },
            cache: None,
        });
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(self.error(format!("kernel {}/{entry} {constants:?}: {e}", shader.name)));
        }
        let pipeline = Arc::new(Pipeline { raw, layout, shape: (outputs, inputs) });
        ready.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn module(&self, shader: &Shader) -> wgpu::ShaderModule {
        let mut modules = self.pipelines.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let create = || {
            let text = wgpu::ShaderModuleDescriptor {
                label: Some(shader.name),
                source: wgpu::ShaderSource::Wgsl(shader.text.into()),
            };
            // Bounds stay checked. A counter in every loop, though, costs more than the loop's own work.
            let mut checks = wgpu::ShaderRuntimeChecks::checked();
            checks.force_loop_bounding = false;
            // SAFETY: every loop of the kernels counts up to a size or halves a constant, so all of them end.
            unsafe { self.device.create_shader_module_trusted(text, checks) }
        };
        modules.entry(shader.name).or_insert_with(create).clone()
    }

    /// Binding 0 is the parameters with a dynamic offset; then come the outputs, then the inputs.
    fn layout(&self, outputs: usize, inputs: usize) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let mut layouts = self.pipelines.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let create = || {
            let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty,
                count: None,
            };
            let mut entries = vec![entry(
                0,
                wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
            )];
            entries.extend((0..outputs + inputs).map(|i| {
                let ty = wgpu::BufferBindingType::Storage { read_only: i >= outputs };
                entry(i + 1, wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None })
            }));
            let layout = self
                .device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            (layout, pipeline)
        };
        layouts.entry((outputs, inputs)).or_insert_with(create).clone()
    }
}
