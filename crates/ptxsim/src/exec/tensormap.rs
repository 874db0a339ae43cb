//! Tensor maps: what `cuTensorMapEncodeTiled` describes, in an encoding of our own (NVIDIA's is secret).

use crate::types::Ty;

/// How the rows of a box are permuted in shared memory, in 16-byte chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// Rows stay as they are.
    #[default]
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    /// The permuted shared address: address bits 7… are added (xor) onto the chunk number, bits 4….
    #[inline]
    pub(crate) fn apply(self, a: usize) -> usize {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        a ^ ((a >> 7) & mask) << 4
    }
    /// Widest row, in bytes, that the pattern covers.
    pub(crate) fn width(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }
}

/// A tiled tensor map of up to five dimensions, innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Global address of the tensor.
    pub base: u64,
    /// `CUtensorMapDataType`: 0 u8, 1 u16, 2 u32, 3 i32, 4 u64, 5 i64, 6 f16, 7 f32, 8 f64, 9 bf16, 10 f32 flushed,
    /// 11 tf32, 12 tf32 flushed.
    pub data_type: u32,
    /// Elements in each dimension.
    pub dims: Vec<u64>,
    /// Bytes between neighbours in dimensions 1…; dimension 0 is dense.
    pub strides: Vec<u64>,
    /// Elements of one box.
    pub boxes: Vec<u32>,
    /// Layout in shared memory.
    pub swizzle: Swizzle,
    /// Elements outside the tensor become NaN instead of zero.
    pub nan_fill: bool,
}

const MAGIC: u16 = 0x7a9d;

impl TensorMap {
    /// Bytes of one element, if the type is known.
    pub fn element_size(&self) -> Option<u64> {
        Some(match self.data_type {
            0 => 1,
            1 | 6 | 9 => 2,
            2 | 3 | 7 | 10 | 11 | 12 => 4,
            4 | 5 | 8 => 8,
            _ => return None,
        })
    }

    pub(crate) fn reduce_ty(&self) -> Ty {
        match self.data_type {
            0 => Ty::U8,
            1 => Ty::U16,
            2 => Ty::U32,
            3 => Ty::S32,
            4 => Ty::U64,
            5 => Ty::S64,
            6 => Ty::F16,
            8 => Ty::F64,
            9 => Ty::BF16,
            _ => Ty::F32,
        }
    }

    /// The 128 bytes that a kernel takes as a `CUtensorMap` parameter.
    ///
    /// # Errors
    /// A description of the rule that a driver would refuse the map for.
    pub fn encode(&self) -> Result<[u8; 128], String> {
        let rank = self.dims.len();
        let size = self.element_size().ok_or(format!("data type {} is unknown", self.data_type))?;
        if !(1..=5).contains(&rank) || self.boxes.len() != rank || self.strides.len() + 1 < rank {
            return Err(format!("rank {rank} with {} box sizes and {} strides", self.boxes.len(), self.strides.len()));
        }
        if !self.base.is_multiple_of(16) {
            return Err(format!("global address {:#x} is no multiple of 16", self.base));
        }
        if let Some(d) = self.dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
            return Err(format!("dimension of {d} elements"));
        }
        if let Some(s) = self.strides[..rank - 1].iter().find(|s| **s % 16 != 0 || **s >= 1 << 40) {
            return Err(format!("stride of {s} bytes is no multiple of 16 below 2^40"));
        }
        if let Some(b) = self.boxes.iter().find(|b| **b == 0 || **b > 256) {
            return Err(format!("box of {b} elements in one dimension (1–256)"));
        }
        let inner = self.boxes[0] as u64 * size;
        if !inner.is_multiple_of(16) || inner > self.swizzle.width() {
            return Err(format!("innermost box of {inner} bytes: a multiple of 16, at most the width of the swizzle"));
        }
        let mut out = [0u8; 128];
        let sw = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        out[..2].copy_from_slice(&MAGIC.to_le_bytes());
        out[2..6].copy_from_slice(&[rank as u8, self.data_type as u8, sw, self.nan_fill as u8]);
        out[8..16].copy_from_slice(&self.base.to_le_bytes());
        for i in 0..rank {
            out[16 + 8 * i..24 + 8 * i].copy_from_slice(&self.dims[i].to_le_bytes());
            out[96 + 2 * i..98 + 2 * i].copy_from_slice(&(self.boxes[i] as u16).to_le_bytes());
        }
        for (i, s) in self.strides[..rank - 1].iter().enumerate() {
            out[56 + 8 * i..64 + 8 * i].copy_from_slice(&s.to_le_bytes());
        }
        Ok(out)
    }

    /// Reads an encoded map; `None` if the bytes are none.
    pub fn decode(b: &[u8]) -> Option<Self> {
        let rank = *b.get(2)? as usize;
        if b.len() < 128 || u16::from_le_bytes([b[0], b[1]]) != MAGIC || !(1..=5).contains(&rank) {
            return None;
        }
        let u64_at = |i: usize| b[i..i + 8].iter().rev().fold(0u64, |v, x| v << 8 | *x as u64);
        Some(TensorMap {
            base: u64_at(8),
            data_type: b[3] as u32,
            dims: (0..rank).map(|i| u64_at(16 + 8 * i)).collect(),
            strides: (0..rank - 1).map(|i| u64_at(56 + 8 * i)).collect(),
            boxes: (0..rank).map(|i| u16::from_le_bytes([b[96 + 2 * i], b[97 + 2 * i]]) as u32).collect(),
            swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][b[4] as usize & 3],
            nan_fill: b[5] != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_and_decodes() {
        let m = TensorMap {
            base: 0x7f00_0000_1000,
            data_type: 9,
            dims: vec![64, 32, 7],
            strides: vec![128, 4096],
            boxes: vec![64, 8, 2],
            swizzle: Swizzle::B128,
            nan_fill: false,
        };
        assert_eq!(TensorMap::decode(&m.encode().unwrap()), Some(m.clone()));
        assert!(TensorMap { boxes: vec![65, 8, 2], ..m.clone() }.encode().unwrap_err().contains("innermost"));
        assert!(TensorMap { strides: vec![120, 4096], ..m }.encode().unwrap_err().contains("stride"));
        assert_eq!(TensorMap::decode(&[0; 128]), None);
    }

    #[test]
    fn swizzle_moves_chunks_within_a_row() {
        // Row r of 128 bytes: chunk c lands at chunk c ^ (r % 8).
        for r in 0..16 {
            for c in 0..8 {
                assert_eq!(Swizzle::B128.apply(r * 128 + c * 16), r * 128 + (c ^ (r % 8)) * 16);
            }
        }
        assert_eq!(Swizzle::B64.apply(128 + 16), 128);
        assert_eq!(Swizzle::B32.apply(128), 128 + 16);
    }
}
