//! GGUF, version 3: magic, version, counts, fields, tensors' places, then their elements, each at a multiple of 32 bytes.
//! Numbers are little-endian; dimensions stand fastest first.

use half::f16;
use lowrank_core::DType;

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
pub(super) const VERSION: u32 = 3;
pub(super) const ALIGNMENT: usize = 32;
pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;
const TYPE_F32: u32 = 6;
const TYPE_TEXT: u32 = 8;

/// The value of a field.
pub(super) enum Value {
    Text(String),
    F32(f32),
}

/// A matrix to write.
pub(super) struct TensorOut {
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    pub values: Vec<f64>,
}

/// The file's content.
pub(super) fn file(fields: &[(&str, Value)], tensors: &[TensorOut], dtype: DType) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((fields.len() as u64).to_le_bytes());
    for (key, value) in fields {
        text(&mut out, key);
        match value {
            Value::Text(s) => {
                out.extend(TYPE_TEXT.to_le_bytes());
                text(&mut out, s);
            }
            Value::F32(x) => {
                out.extend(TYPE_F32.to_le_bytes());
                out.extend(x.to_le_bytes());
            }
        }
    }
    let mut offset = 0;
    for t in tensors {
        text(&mut out, &t.name);
        out.extend(2u32.to_le_bytes());
        for dimension in [t.shape[1], t.shape[0]] {
            out.extend((dimension as u64).to_le_bytes());
        }
        out.extend(if dtype == DType::F16 { F16 } else { F32 }.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset = (offset + t.values.len() * dtype.size()).next_multiple_of(ALIGNMENT);
    }
    for t in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for &x in &t.values {
            match dtype {
                DType::F16 => out.extend(f16::from_f64(x).to_le_bytes()),
                _ => out.extend((x as f32).to_le_bytes()),
            }
        }
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}
