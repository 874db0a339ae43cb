//! How work reaches the device: one open compute pass, parameters in one uniform buffer, one submission per batch.
//!
//! A pass per operation and a submission per operation were each measured elsewhere as several times slower than the
//! kernels themselves. A batch ends after [`BATCH`] kernels, when something is read back, or when the host is about to
//! overwrite memory that the batch uses.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lowrank_backend::Result;

use crate::adapter::Context;
use crate::pipeline::{PARAMS, Pipeline};
use crate::pool::Block;

/// Kernels in a submission.
const BATCH: usize = 32;
/// Bind groups kept.
const GROUPS: usize = 4096;

/// A piece of a block as a kernel sees it.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub block: &'a Block,
    pub offset: u64,
    pub size: u64,
}

type GroupKey = ((usize, usize), Vec<(u64, u64, u64)>);

/// The open batch.
pub(crate) struct Queue {
    context: Arc<Context>,
    open: Option<(wgpu::CommandEncoder, wgpu::ComputePass<'static>)>,
    /// Number of the open batch, from 1.
    serial: u64,
    params: Vec<u8>,
    uniform: wgpu::Buffer,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    evictions: u64,
}

impl Queue {
    pub fn new(context: Arc<Context>) -> Self {
        let uniform = context.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: BATCH as u64 * PARAMS,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Queue { context, open: None, serial: 1, params: Vec::new(), uniform, groups: HashMap::new(), evictions: 0 }
    }

    /// Forgets the bind groups if blocks were given back since the last call: they would keep the memory alive.
    pub fn forget(&mut self, evictions: u64) {
        if evictions != self.evictions || self.groups.len() >= GROUPS {
            self.groups.clear();
            self.evictions = evictions;
        }
    }

    /// Adds a kernel to the batch.
    pub fn dispatch(&mut self, pipeline: &Pipeline, params: &[u8], bindings: &[Binding<'_>], groups: [u32; 3]) {
        let Queue { context, uniform, .. } = self;
        let key = (pipeline.shape, bindings.iter().map(|b| (b.block.id, b.offset, b.size)).collect());
        let group = self.groups.entry(key).or_insert_with(|| {
            let piece = |buffer, offset, size| {
                wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: std::num::NonZero::new(size),
                })
            };
            let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: piece(uniform, 0, PARAMS) }];
            entries.extend(bindings.iter().enumerate().map(|(i, b)| wgpu::BindGroupEntry {
                binding: i as u32 + 1,
                resource: piece(&b.block.raw, b.offset, b.size),
            }));
            context.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        let (_, pass) = self.open.get_or_insert_with(|| {
            let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime();
            (encoder, pass)
        });
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, &*group, &[self.params.len() as u32]);
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        self.params.extend_from_slice(params);
        self.params.resize(self.params.len().next_multiple_of(PARAMS as usize), 0);
        for binding in bindings {
            binding.block.used.store(self.serial, std::sync::atomic::Ordering::Relaxed);
        }
        if self.params.len() >= BATCH * PARAMS as usize {
            self.submit(|_| ());
        }
    }

    /// Whether the open batch uses a block.
    pub fn uses(&self, block: &Block) -> bool {
        self.open.is_some() && block.used.load(std::sync::atomic::Ordering::Relaxed) == self.serial
    }

    /// Hands the batch to the device, with `last` at its end. Returns at once.
    pub fn submit(&mut self, last: impl FnOnce(&mut wgpu::CommandEncoder)) -> wgpu::SubmissionIndex {
        let context = self.context.clone();
        let mut encoder = match self.open.take() {
            Some((encoder, pass)) => {
                drop(pass);
                encoder
            }
            None => context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()),
        };
        last(&mut encoder);
        if !self.params.is_empty() {
            context.queue.write_buffer(&self.uniform, 0, &self.params);
            self.params.clear();
        }
        self.serial += 1;
        context.queue.submit([encoder.finish()])
    }

    /// Host bytes into a block, after everything that the batch does with it.
    pub fn write(&mut self, block: &Block, offset: u64, bytes: &[u8]) {
        if self.uses(block) {
            self.submit(|_| ());
        }
        self.context.queue.write_buffer(&block.raw, offset, bytes);
    }

    /// Waits for a submission.
    pub fn wait(context: &Context, submission: wgpu::SubmissionIndex) -> Result<()> {
        context.check()?;
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        // wgpu panics if the device is lost while it waits.
        match catch_unwind(AssertUnwindSafe(|| context.device.poll(wait))) {
            Ok(Ok(_)) => context.check(),
            Ok(Err(e)) => Err(context.fail(e.to_string())),
            Err(_) => Err(context.fail("the device was lost while it worked".to_string())),
        }
    }

    /// Bind groups kept.
    #[cfg(test)]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }
}
