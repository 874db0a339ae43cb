//! What the unit tests of this crate share: tensors on the reference device, and their values.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::*;

/// A buffer with its dtype and length.
pub struct Held {
    buffer: Box<dyn Buffer>,
    dtype: DType,
    len: usize,
}

impl Held {
    /// Uploads elements.
    pub fn of<T: Element>(r: &Reference, values: &[T]) -> Self {
        let mut t = Held::empty(r, T::DTYPE, values.len());
        r.upload(bytemuck::cast_slice(values), t.out()).unwrap();
        t
    }

    /// Fresh memory: NaN in every float dtype.
    pub fn empty(r: &Reference, dtype: DType, len: usize) -> Self {
        Held { buffer: r.alloc(len * dtype.size()).unwrap(), dtype, len }
    }

    pub fn view(&self) -> In<'_> {
        In::new(&*self.buffer, self.dtype, self.len)
    }

    pub fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.buffer, self.dtype, self.len)
    }

    pub fn set(&mut self) -> Slot<'_> {
        self.out().set()
    }

    pub fn add(&mut self) -> Slot<'_> {
        self.out().add()
    }

    /// Downloads elements.
    pub fn read<T: Element>(&self, r: &Reference) -> Vec<T> {
        assert_eq!(self.dtype, T::DTYPE);
        let bytes = ready(r.download(self.view())).unwrap();
        bytes.chunks_exact(T::DTYPE.size()).map(bytemuck::pod_read_unaligned).collect()
    }
}

/// `n` uniform numbers in [−1, 1).
pub fn uniform(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = philox::Rng::new(seed, 0);
    (0..n).map(|_| 2.0 * rng.uniform() - 1.0).collect()
}

/// The reference device's downloads are ready at once.
pub fn ready<T>(mut future: Pin<Box<dyn Future<Output = T> + '_>>) -> T {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("pending"),
    }
}

#[track_caller]
pub fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1.0), "element {i}: {g}, expected {w}");
    }
}
