//! `cuTensorMapEncodeTiled`, into the encoding of the interpreter.

use std::ffi::{c_int, c_uint};

use ptxsim::{Swizzle, TensorMap};

use crate::abi::{In, Out, api};
use crate::codes::*;

api! {
    always;
    fn cuTensorMapEncodeTiled(
        o: Out<[u8; 128]>, data_type: c_int, rank: c_uint, base: u64, dims: In<u64>, strides: In<u64>,
        boxes: In<c_uint>, element_strides: In<c_uint>, interleave: c_int, swizzle: c_int, _l2: c_int, fill: c_int,
    ) |_s| {
        let refuse = |m: &str| {
            eprintln!("ptxsim-driver: cuTensorMapEncodeTiled: {m}");
            INVALID_VALUE
        };
        if !(1..=5).contains(&rank) {
            return Err(refuse(&format!("rank {rank}")));
        }
        if !o.addr().is_multiple_of(64) {
            return Err(refuse("the map is not aligned to 64 bytes"));
        }
        let n = rank as usize;
        if interleave != 0 || element_strides.read(n)?.iter().any(|s| *s != 1) {
            eprintln!("ptxsim-driver: interleaved maps and element strides are not implemented");
            return Err(NOT_SUPPORTED);
        }
        let swizzle = match swizzle {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            3 => Swizzle::B128,
            _ => return Err(NOT_SUPPORTED),
        };
        let map = TensorMap {
            base,
            data_type: data_type as u32,
            dims: dims.read(n)?,
            strides: strides.read(n - 1)?,
            boxes: boxes.read(n)?,
            swizzle,
            nan_fill: fill != 0,
        };
        o.set(map.encode().map_err(|e| refuse(&e))?)
    }
}
