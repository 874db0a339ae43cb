//! The tensor: contiguous elements on a device, and a place in the graph.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lowrank_backend::{Buffer, DType, Element, Error, In, Mode, Out, Result, Slot};

use crate::Device;
use crate::tape::Node;

/// Contiguous elements of one dtype on one device. A clone is a handle on the same elements.
///
/// It does not carry its backend in its type; operations between devices are an error that names both.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) meta: Arc<Meta>,
    storage: Arc<Storage>,
    /// First element in the storage.
    offset: usize,
}

/// A tensor without its elements: what the graph holds of an operation's inputs, so that a result whose values no rule
/// needs can be freed before backward.
pub(crate) struct Meta {
    pub(crate) id: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    name: Option<String>,
    pub(crate) requires_grad: bool,
    /// The recorded operation; taken by `backward`.
    pub(crate) node: Mutex<Option<Node>>,
    pub(crate) is_leaf: bool,
    pub(crate) grad: Mutex<Option<Tensor>>,
}

impl Meta {
    pub(crate) fn lock_grad(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.grad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) type Storage = RwLock<Box<dyn Buffer>>;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A tensor locked for reading.
pub struct Read<'a> {
    guard: RwLockReadGuard<'a, Box<dyn Buffer>>,
    tensor: &'a Tensor,
}

impl Read<'_> {
    /// All elements.
    pub fn view(&self) -> In<'_> {
        In { buffer: &**self.guard, dtype: self.tensor.dtype(), offset: self.tensor.offset, len: self.tensor.len() }
    }
}

/// A tensor locked for writing.
pub struct Write<'a> {
    guard: RwLockWriteGuard<'a, Box<dyn Buffer>>,
    tensor: &'a Tensor,
}

impl Write<'_> {
    /// All elements.
    pub fn out(&mut self) -> Out<'_> {
        let (dtype, offset, len) = (self.tensor.dtype(), self.tensor.offset, self.tensor.len());
        Out { buffer: &mut **self.guard, dtype, offset, len }
    }

    /// All elements as a slot that overwrites.
    pub fn set(&mut self) -> Slot<'_> {
        self.slot(Mode::Set)
    }

    /// All elements as a slot.
    pub fn slot(&mut self, mode: Mode) -> Slot<'_> {
        Slot { out: self.out(), mode }
    }
}

impl Tensor {
    // ---- making -----------------------------------------------------------------------------------------------

    /// Uninitialised elements: for operations, which fill them before anyone sees them.
    pub fn empty(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let bytes = numel("empty", shape)?
            .checked_mul(dtype.size())
            .ok_or_else(|| Error::shape("empty", format!("{shape:?} of {dtype} overflows")))?;
        let storage = Arc::new(RwLock::new(device.backend().alloc(bytes)?));
        Ok(Tensor::assemble(shape.to_vec(), dtype, device.clone(), storage, 0))
    }

    /// Elements from the host, row-major. `data.len()` must be the product of `shape`.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize], device: &Device) -> Result<Self> {
        Tensor::from_bytes(bytemuck::cast_slice(data), T::DTYPE, shape, device)
    }

    /// Elements from the host as little-endian bytes of `dtype`.
    pub fn from_bytes(bytes: &[u8], dtype: DType, shape: &[usize], device: &Device) -> Result<Self> {
        let n = numel("from_bytes", shape)?;
        if Some(bytes.len()) != n.checked_mul(dtype.size()) {
            let detail = format!("{} bytes for shape {shape:?} of {dtype}", bytes.len());
            return Err(Error::shape("from_bytes", detail));
        }
        let t = Tensor::empty(shape, dtype, device)?;
        device.backend().upload(bytes, t.write().out())?;
        Ok(t)
    }

    /// Every element `value`.
    pub fn full(value: f64, shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let t = Tensor::empty(shape, dtype, device)?;
        device.backend().fill(value, t.write().out())?;
        Ok(t)
    }

    /// Every element 0.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        Tensor::full(0.0, shape, dtype, device)
    }

    /// Host values rounded to `dtype` (any float dtype).
    pub fn from_f64(data: &[f64], shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match dtype {
            DType::F64 => Tensor::from_slice(data, shape, device),
            DType::F32 => Tensor::from_slice(&data.iter().map(|&x| x as f32).collect::<Vec<_>>(), shape, device),
            DType::BF16 => {
                Tensor::from_slice(&data.iter().map(|&x| half::bf16::from_f64(x)).collect::<Vec<_>>(), shape, device)
            }
            DType::F16 => {
                Tensor::from_slice(&data.iter().map(|&x| half::f16::from_f64(x)).collect::<Vec<_>>(), shape, device)
            }
            DType::U32 => Err(Error::dtype("from_f64", "the tensor", dtype, "a float dtype")),
        }
    }

    fn assemble(shape: Vec<usize>, dtype: DType, device: Device, storage: Arc<Storage>, offset: usize) -> Self {
        let meta = Meta {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            shape,
            dtype,
            device,
            name: None,
            requires_grad: false,
            node: Mutex::new(None),
            is_leaf: true,
            grad: Mutex::new(None),
        };
        Tensor { meta: Arc::new(meta), storage, offset }
    }

    /// A fresh handle on the same elements: no name, no graph. The one visible way to cut a gradient.
    pub fn detach(&self) -> Tensor {
        self.alias(self.shape().to_vec(), self.offset)
    }

    /// Same storage, other shape or offset, outside of the graph; the caller has checked that it fits.
    pub(crate) fn alias(&self, shape: Vec<usize>, offset: usize) -> Tensor {
        Tensor::assemble(shape, self.dtype(), self.device().clone(), self.storage.clone(), offset)
    }

    /// The same elements as a leaf that collects a gradient: a trainable parameter.
    pub fn trainable(&self) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return Err(Error::dtype("trainable", self.label("the tensor"), self.dtype(), "a float dtype"));
        }
        let mut t = self.detach();
        let meta = Arc::get_mut(&mut t.meta).expect("detach returns the only handle");
        meta.requires_grad = true;
        meta.name = self.meta.name.clone();
        Ok(t)
    }

    /// A leaf with a name for messages. A result of an operation stays as it is: it is named after its inputs.
    pub fn named(&self, name: impl Into<String>) -> Tensor {
        if !self.meta.is_leaf {
            return self.clone();
        }
        let mut t = self.detach();
        let meta = Arc::get_mut(&mut t.meta).expect("detach returns the only handle");
        meta.requires_grad = self.meta.requires_grad;
        meta.name = Some(name.into());
        t
    }

    /// Makes this fresh result of an operation a part of the graph (used by operations; see `ops`).
    pub(crate) fn record(mut self, node: Node) -> Tensor {
        let meta = Arc::get_mut(&mut self.meta).expect("an operation's result has one handle");
        meta.requires_grad = true;
        meta.is_leaf = false;
        meta.node = Mutex::new(Some(node));
        self
    }

    // ---- asking -----------------------------------------------------------------------------------------------

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.meta.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.meta.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.meta.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.meta.device
    }

    /// Name given by [`Tensor::named`].
    pub fn name(&self) -> Option<&str> {
        self.meta.name.as_deref()
    }

    /// Whether backward computes a gradient for it.
    pub fn requires_grad(&self) -> bool {
        self.meta.requires_grad
    }

    /// A number that no other tensor has.
    pub fn id(&self) -> u64 {
        self.meta.id
    }

    /// The gradient that backward left at this leaf.
    pub fn grad(&self) -> Option<Tensor> {
        self.meta.lock_grad().clone()
    }

    /// Forgets the gradient.
    pub fn zero_grad(&self) {
        *self.meta.lock_grad() = None;
    }

    /// `name [2, 3] f32 on cpu`, for messages.
    pub fn label(&self, fallback: &str) -> String {
        let name = self.meta.name.as_deref().unwrap_or(fallback);
        format!("{name} {:?} {} on {}", self.meta.shape, self.meta.dtype, self.meta.device.name())
    }

    // ---- access -----------------------------------------------------------------------------------------------

    /// Locks the elements for reading.
    pub fn read(&self) -> Read<'_> {
        Read { guard: self.storage.read().unwrap_or_else(PoisonError::into_inner), tensor: self }
    }

    /// Locks the elements for writing. Must not be called while the same thread holds a [`Read`] of the same storage.
    pub fn write(&self) -> Write<'_> {
        Write { guard: self.storage.write().unwrap_or_else(PoisonError::into_inner), tensor: self }
    }

    /// Whether this is the only handle on its storage, so that nobody can see it reused in place.
    pub(crate) fn owns_storage(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// Whether two tensors are (parts of) the same memory.
    pub(crate) fn shares_storage(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
    }

    /// A number that two live tensors have in common only if they share their storage.
    pub(crate) fn storage_id(&self) -> usize {
        Arc::as_ptr(&self.storage) as usize
    }

    /// Whether it is not the result of a recorded operation.
    pub(crate) fn is_leaf(&self) -> bool {
        self.meta.is_leaf
    }

    /// Same storage, other shape; gives up this handle, so that the result may own the storage.
    pub(crate) fn into_alias(self, shape: Vec<usize>) -> Tensor {
        self.alias(shape, self.offset)
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes on the host, in a future: resolves when all work before it is done.
    pub async fn to_bytes_async(&self) -> Result<Vec<u8>> {
        let read = self.read();
        self.device().backend().download(read.view()).await
    }

    /// Elements on the host; waits for the device. `T` must be the tensor's dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return Err(Error::dtype("to_vec", self.label("the tensor"), self.dtype(), T::DTYPE.name()));
        }
        Ok(bytemuck::allocation::pod_collect_to_vec(&pollster::block_on(self.to_bytes_async())?))
    }

    /// Elements of any float dtype as f64 on the host; waits for the device.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let bytes = pollster::block_on(self.to_bytes_async())?;
        fn read<T: Element>(bytes: &[u8], f: impl Fn(T) -> f64) -> Vec<f64> {
            bytemuck::allocation::pod_collect_to_vec::<u8, T>(bytes).into_iter().map(f).collect()
        }
        Ok(match self.dtype() {
            DType::F64 => read::<f64>(&bytes, |x| x),
            DType::F32 => read::<f32>(&bytes, f64::from),
            DType::BF16 => read::<half::bf16>(&bytes, |x| x.to_f64()),
            DType::F16 => read::<half::f16>(&bytes, |x| x.to_f64()),
            DType::U32 => read::<u32>(&bytes, f64::from),
        })
    }

    /// The one element of a tensor of length 1; waits for the device.
    pub fn item(&self) -> Result<f64> {
        if self.len() != 1 {
            return Err(Error::shape("item", format!("{} has not one element", self.label("the tensor"))));
        }
        Ok(self.to_f64()?[0])
    }

    /// A copy on another device (a leaf outside of the graph).
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device().same(device) {
            return Ok(self.detach());
        }
        Tensor::from_bytes(&pollster::block_on(self.to_bytes_async())?, self.dtype(), self.shape(), device)
    }

    /// Overwrites the elements with host values of the same dtype and number.
    pub fn set<T: Element>(&self, data: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype() || data.len() != self.len() {
            let detail = format!("{} values of {} for {}", data.len(), T::DTYPE, self.label("the tensor"));
            return Err(Error::shape("set", detail));
        }
        self.device().backend().upload(bytemuck::cast_slice(data), self.write().out())
    }
}

pub(crate) fn numel(op: &'static str, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or_else(|| Error::shape(op, format!("shape {shape:?} overflows")))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({})", self.label("unnamed"))
    }
}
