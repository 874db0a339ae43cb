//! Copies to the host.
//!
//! The copy is submitted when `download` is called; waiting for it is left to whoever polls the future, so that the next
//! step's work can be put into the queue before.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use lowrank_backend::{In, Readback};

use crate::Wgpu;
use crate::queue::Queue;

/// What the callback of a mapping leaves.
#[derive(Default)]
struct Mapped {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

/// See `Backend::download`.
pub(crate) fn download<'a>(wgpu: &'a Wgpu, src: In<'a>) -> Readback<'a> {
    const OP: &str = "download";
    let block = match wgpu.block(OP, "source", src) {
        Ok(block) => block,
        Err(e) => return Box::pin(async move { Err(e) }),
    };
    if let Err(e) = wgpu.context.check() {
        return Box::pin(async move { Err(e) });
    }
    let size = src.dtype.size() as u64;
    let (start, bytes) = (src.offset as u64 * size, src.len as u64 * size);
    if bytes == 0 {
        return Box::pin(async { Ok(Vec::new()) });
    }
    // Copies are of whole words.
    let from = start & !3;
    let length = (start + bytes).next_multiple_of(4) - from;
    let staging = match wgpu.pool.staging(length, || wgpu.release()) {
        Ok(staging) => staging,
        Err(e) => return Box::pin(async move { Err(e) }),
    };
    let submission =
        wgpu.queue().submit(|encoder| encoder.copy_buffer_to_buffer(&block.raw, from, &staging, 0, length));
    let mapped = Arc::new(Mutex::new(Mapped::default()));
    let sink = mapped.clone();
    staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
        let mut mapped = sink.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.result = Some(result);
        if let Some(waker) = mapped.waker.take() {
            waker.wake();
        }
    });
    Box::pin(async move {
        wgpu.counters.waits.fetch_add(1, Relaxed);
        Queue::wait(&wgpu.context, submission)?;
        let arrived = poll_fn(|cx| {
            let mut mapped = mapped.lock().unwrap_or_else(PoisonError::into_inner);
            match mapped.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    mapped.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        arrived.await.map_err(|e| wgpu.context.error(e.to_string()))?;
        let skip = (start - from) as usize;
        let range = staging.slice(..).get_mapped_range().map_err(|e| wgpu.context.error(e.to_string()))?;
        let out = range[skip..skip + bytes as usize].to_vec();
        drop(range);
        staging.unmap();
        wgpu.counters.downloaded.fetch_add(bytes, Relaxed);
        Ok(out)
    })
}
