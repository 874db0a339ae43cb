//! Host memory and the counters.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::NAME;
use crate::{Buffer, Error, In, Out, Result, Stats};

#[derive(Debug, Default)]
pub(super) struct Counters {
    launches: AtomicU64,
    waits: AtomicU64,
    live: AtomicU64,
    peak: AtomicU64,
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Counters {
    pub fn launch(&self) {
        self.launches.fetch_add(1, Relaxed);
    }

    pub fn wait(&self) {
        self.waits.fetch_add(1, Relaxed);
    }

    pub fn reset_peak(&self) {
        self.peak.store(self.live.load(Relaxed), Relaxed);
    }

    pub fn read(&self) -> Stats {
        Stats {
            launches: self.launches.load(Relaxed),
            waits: self.waits.load(Relaxed),
            bytes_live: self.live.load(Relaxed),
            bytes_peak: self.peak.load(Relaxed),
            bytes_pooled: 0,
            bytes_uploaded: self.uploaded.load(Relaxed),
            bytes_downloaded: self.downloaded.load(Relaxed),
            ..Stats::default()
        }
    }
}

struct HostBuffer {
    bytes: Vec<u8>,
    counters: Arc<Counters>,
}

impl Buffer for HostBuffer {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.counters.live.fetch_sub(self.bytes.len() as u64, Relaxed);
    }
}

pub(super) fn alloc(counters: &Arc<Counters>, len: usize) -> Result<Box<dyn Buffer>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        device: NAME.into(),
        requested: len,
        live: counters.live.load(Relaxed),
    })?;
    bytes.resize(len, 0xFF);
    let live = counters.live.fetch_add(len as u64, Relaxed) + len as u64;
    counters.peak.fetch_max(live, Relaxed);
    Ok(Box::new(HostBuffer { bytes, counters: counters.clone() }))
}

fn foreign(op: &'static str) -> Error {
    Error::invalid(op, format!("a buffer of another device was given to {NAME}"))
}

/// The bytes of a view.
pub(super) fn bytes<'a>(op: &'static str, x: In<'a>) -> Result<&'a [u8]> {
    x.expect(op, "operand", x.len)?;
    let any: &dyn Any = x.buffer;
    let host: &HostBuffer = any.downcast_ref().ok_or_else(|| foreign(op))?;
    let size = x.dtype.size();
    Ok(&host.bytes[x.offset * size..(x.offset + x.len) * size])
}

/// The bytes of a view, to write.
pub(super) fn bytes_mut<'a>(op: &'static str, y: Out<'a>) -> Result<&'a mut [u8]> {
    y.expect(op, "result", y.len)?;
    let (start, end) = (y.offset * y.dtype.size(), (y.offset + y.len) * y.dtype.size());
    let any: &mut dyn Any = y.buffer;
    let host: &mut HostBuffer = any.downcast_mut().ok_or_else(|| foreign(op))?;
    Ok(&mut host.bytes[start..end])
}

pub(super) fn upload(counters: &Counters, src: &[u8], dst: Out<'_>) -> Result<()> {
    let size = dst.dtype.size();
    if !src.len().is_multiple_of(size) {
        return Err(Error::shape("upload", format!("{} bytes are no whole number of {}", src.len(), dst.dtype)));
    }
    dst.expect("upload", "destination", src.len() / size)?;
    bytes_mut("upload", dst)?.copy_from_slice(src);
    counters.uploaded.fetch_add(src.len() as u64, Relaxed);
    Ok(())
}

pub(super) fn download(counters: &Counters, src: In<'_>) -> Result<Vec<u8>> {
    let out = bytes("download", src)?.to_vec();
    counters.wait();
    counters.downloaded.fetch_add(out.len() as u64, Relaxed);
    Ok(out)
}
