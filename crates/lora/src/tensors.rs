//! Safetensors files: a length, a JSON header, bytes. Everything in them is untrusted.

use std::collections::{BTreeMap, HashMap};

use lowrank_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{TensorInfo, TensorView, serialize};

use crate::scalar::{Scalar, element, host_bytes, with_scalar};
use crate::{Error, Result};

/// Longest header that is read, the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// A safetensors file in memory (or mapped): its header, checked, and views of its tensors.
pub struct TensorFile<'a> {
    file: String,
    tensors: BTreeMap<String, Entry<'a>>,
}

struct Entry<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> TensorFile<'a> {
    /// Reads and checks the header: its length, every tensor's shape × dtype against its offsets, and that the tensors
    /// cover the rest of the file without gap or overlap. `file_name` is for messages.
    pub fn parse(file_name: &str, bytes: &'a [u8]) -> Result<Self> {
        let bad = |detail: String| Error::file(file_name, detail);
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(bad(format!("{} bytes are too few for a safetensors file", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER || length > rest.len() as u64 {
            return Err(bad(format!("header length {length} is beyond the file of {} bytes", bytes.len())));
        }
        let (header, data) = rest.split_at(length as usize);
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(header).map_err(|e| bad(format!("header: {e}")))?;
        let mut order = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                continue;
            }
            let info: TensorInfo =
                serde_json::from_value(value).map_err(|e| bad(format!("header: tensor `{name}`: {e}")))?;
            let (start, end) = info.data_offsets;
            let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d));
            let Some(bits) = bits else {
                return Err(bad(format!("tensor `{name}`: {:?} of {} overflows", info.shape, info.dtype)));
            };
            let Some(view) = data.get(start..end) else {
                let detail = format!("offsets {start}..{end} lie outside the {} bytes of data", data.len());
                return Err(bad(format!("tensor `{name}`: {detail}")));
            };
            if bits % 8 != 0 || view.len() != bits / 8 {
                let detail = format!("{} bytes for {:?} of {}", view.len(), info.shape, info.dtype);
                return Err(bad(format!("tensor `{name}`: {detail}")));
            }
            order.push((start, end, name.clone()));
            tensors.insert(name, Entry { dtype: info.dtype, shape: info.shape, bytes: view });
        }
        order.sort();
        let mut covered = 0;
        for (start, end, name) in order {
            if start != covered {
                let what = if start < covered { "overlaps another tensor" } else { "leaves a gap before it" };
                return Err(bad(format!("tensor `{name}`: offset {start} {what} (expected {covered})")));
            }
            covered = end;
        }
        if covered != data.len() {
            return Err(bad(format!("{} bytes of data, tensors cover {covered}", data.len())));
        }
        Ok(TensorFile { file: file_name.to_string(), tensors })
    }

    /// The file's name as given to [`TensorFile::parse`].
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape; a missing tensor is an error.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entry(name)?.shape)
    }

    /// A tensor's dtype as the file writes it (`F32`, `BF16`); a missing tensor is an error.
    pub fn dtype_name(&self, name: &str) -> Result<String> {
        Ok(self.entry(name)?.dtype.to_string())
    }

    /// A tensor's dtype where it is one of ours.
    pub fn dtype(&self, name: &str) -> Result<Option<DType>> {
        Ok(ours(self.entry(name)?.dtype))
    }

    /// A float tensor of exactly this shape, rounded (or widened) to `dtype`, on `device`, named after its key.
    ///
    /// F32, F16, BF16 and F64 are read. A missing tensor, another shape or dtype, NaN, infinity or a value beyond
    /// `dtype`'s range is an error that names the file, the tensor and the element.
    pub fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(self.bad(name, format!("shape {:?}, expected {shape:?}", entry.shape)));
        }
        let source = self.float(name)?;
        let tensor = if source == dtype {
            self.check_finite(name, source, entry.bytes)?;
            Tensor::from_bytes(entry.bytes, dtype, shape, device)?
        } else {
            with_scalar!(source, S => with_scalar!(dtype, D => self.convert::<S, D>(name, entry.bytes, shape, device)))
                .flatten()
                .unwrap_or_else(
                    || Err(self.bad(name, format!("cannot be loaded as {dtype}, which is no float type"))),
                )?
        };
        Ok(tensor.named(name))
    }

    fn check_finite(&self, name: &str, dtype: DType, bytes: &[u8]) -> Result<()> {
        let finite = |i: usize| element(bytes, dtype, i).is_finite();
        match (0..bytes.len() / dtype.size()).find(|&i| !finite(i)) {
            Some(i) => Err(self.bad(name, format!("element {i} is {}", element(bytes, dtype, i)))),
            None => Ok(()),
        }
    }

    fn convert<S: Scalar, D: Scalar>(
        &self,
        name: &str,
        bytes: &[u8],
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        let mut out: Vec<D> = Vec::with_capacity(bytes.len() / size_of::<S>());
        for (i, chunk) in bytes.chunks_exact(size_of::<S>()).enumerate() {
            let x = bytemuck::pod_read_unaligned::<S>(chunk).wide();
            let y = D::narrow(x);
            if !y.wide().is_finite() {
                let why = if x.is_finite() { format!(", beyond the range of {}", D::DTYPE) } else { String::new() };
                return Err(self.bad(name, format!("element {i} is {x}{why}")));
            }
            out.push(y);
        }
        Ok(Tensor::from_slice(&out, shape, device)?)
    }

    /// A tensor of whole numbers (I64, I32 or U32), row-major.
    pub fn i64s(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.entry(name)?;
        let bytes = entry.bytes;
        Ok(match entry.dtype {
            Dtype::I64 => bytemuck::pod_collect_to_vec(bytes),
            Dtype::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(bytes).into_iter().map(i64::from).collect(),
            Dtype::U32 => bytemuck::pod_collect_to_vec::<u8, u32>(bytes).into_iter().map(i64::from).collect(),
            other => return Err(self.bad(name, format!("dtype {other} is not one of I64, I32, U32"))),
        })
    }

    /// A tensor of whole numbers that all fit u32, row-major.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        let convert = |(i, x): (usize, i64)| {
            u32::try_from(x).map_err(|_| self.bad(name, format!("element {i} is {x}, no 32-bit index")))
        };
        self.i64s(name)?.into_iter().enumerate().map(convert).collect()
    }

    /// A float tensor's dtype and bytes as they lie in the file (little-endian, perhaps unaligned).
    pub(crate) fn raw(&self, name: &str) -> Result<(DType, &'a [u8])> {
        Ok((self.float(name)?, self.entry(name)?.bytes))
    }

    fn float(&self, name: &str) -> Result<DType> {
        let dtype = self.entry(name)?.dtype;
        match ours(dtype) {
            Some(d) if d.is_float() => Ok(d),
            _ => Err(self.bad(name, format!("dtype {dtype} is not supported; F32, F16, BF16 and F64 are"))),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry<'a>> {
        self.tensors.get(name).ok_or_else(|| Error::file(&self.file, format!("tensor `{name}` is missing")))
    }

    fn bad(&self, name: &str, detail: String) -> Error {
        Error::file(&self.file, format!("tensor `{name}`: {detail}"))
    }
}

fn ours(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::U32 => DType::U32,
        _ => return None,
    })
}

/// A safetensors file of these tensors, dtypes kept, with the metadata `{"format": "pt"}` that PyTorch's readers ask
/// for; the same tensors give the same bytes, whatever their order. Waits for the device.
pub fn write_tensors(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut bytes = BTreeMap::new();
    for (name, tensor) in tensors {
        if bytes.insert(name.as_str(), (tensor, host_bytes(tensor)?)).is_some() {
            return Err(Error::adapter(format!("two tensors are called `{name}`")));
        }
    }
    let mut views = Vec::with_capacity(bytes.len());
    for (&name, (tensor, bytes)) in &bytes {
        let dtype = match tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::U32 => Dtype::U32,
        };
        let view = TensorView::new(dtype, tensor.shape().to_vec(), bytes)
            .map_err(|e| Error::adapter(format!("tensor `{name}` cannot be written: {e}")))?;
        views.push((name, view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    serialize(views, Some(metadata)).map_err(|e| Error::adapter(format!("writing tensors: {e}")))
}

#[cfg(test)]
mod tests;
