//! Elements on the host, by dtype, through f64.

use half::{bf16, f16};
use lowrank_core::{DType, Tensor};

use crate::Result;

/// A float type that converts through f64 with one rounding.
pub(crate) trait Scalar: lowrank_core::Element + Copy {
    /// Exact.
    fn wide(self) -> f64;
    /// Rounded once, to nearest even.
    fn narrow(x: f64) -> Self;
    /// The next value of the type, towards +∞ or −∞.
    fn next(self, up: bool) -> Self;
}

impl Scalar for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn narrow(x: f64) -> Self {
        x
    }
    fn next(self, up: bool) -> Self {
        if up { self.next_up() } else { self.next_down() }
    }
}

impl Scalar for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn narrow(x: f64) -> Self {
        x as f32
    }
    fn next(self, up: bool) -> Self {
        if up { self.next_up() } else { self.next_down() }
    }
}

impl Scalar for bf16 {
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn narrow(x: f64) -> Self {
        bf16::from_f32(to_odd(x))
    }
    fn next(self, up: bool) -> Self {
        bf16::from_bits(next_bits(self.to_bits(), up))
    }
}

impl Scalar for f16 {
    fn wide(self) -> f64 {
        f64::from(self.to_f32())
    }
    fn narrow(x: f64) -> Self {
        f16::from_f32(to_odd(x))
    }
    fn next(self, up: bool) -> Self {
        f16::from_bits(next_bits(self.to_bits(), up))
    }
}

/// The neighbour of a finite 16-bit float: bits count magnitudes, so away from zero is one more.
fn next_bits(bits: u16, up: bool) -> u16 {
    const SIGN: u16 = 0x8000;
    match (bits & !SIGN == 0, (bits & SIGN == 0) == up) {
        (true, _) => 1 | if up { 0 } else { SIGN },
        (false, true) => bits + 1,
        (false, false) => bits - 1,
    }
}

/// x as f32, rounded to odd: a further rounding to a narrower type then gives what one rounding of x would have given
/// (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums"). `half` goes through f32 on some CPUs.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) == x || !near.is_finite() {
        return near;
    }
    let below = if f64::from(near).abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(below | 1)
}

/// Runs a generic function with the Rust type of a float dtype; `None` for u32.
macro_rules! with_scalar {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            lowrank_core::DType::F64 => {
                type $t = f64;
                Some($body)
            }
            lowrank_core::DType::F32 => {
                type $t = f32;
                Some($body)
            }
            lowrank_core::DType::BF16 => {
                type $t = half::bf16;
                Some($body)
            }
            lowrank_core::DType::F16 => {
                type $t = half::f16;
                Some($body)
            }
            lowrank_core::DType::U32 => None,
        }
    };
}
pub(crate) use with_scalar;

/// A tensor's bytes on the host; waits for the device.
pub(crate) fn host_bytes(t: &Tensor) -> Result<Vec<u8>> {
    Ok(match with_scalar!(t.dtype(), T => bytemuck::cast_slice(&t.to_vec::<T>()?).to_vec()) {
        Some(bytes) => bytes,
        None => bytemuck::cast_slice(&t.to_vec::<u32>()?).to_vec(),
    })
}

/// One element of untyped, possibly unaligned bytes. `dtype` is a float.
pub(crate) fn element(bytes: &[u8], dtype: DType, i: usize) -> f64 {
    let at = &bytes[i * dtype.size()..(i + 1) * dtype.size()];
    with_scalar!(dtype, T => bytemuck::pod_read_unaligned::<T>(at).wide()).unwrap_or(f64::NAN)
}

/// x after a round trip through `dtype`, a float.
pub(crate) fn rounded(x: f64, dtype: DType) -> f64 {
    with_scalar!(dtype, T => T::narrow(x).wide()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours() {
        for x in [0.0, 1.0, -1.0, -2.0, 3.5] {
            let (b, h) = (bf16::narrow(x), f16::narrow(x));
            for up in [true, false] {
                assert!((b.next(up).wide() > x) == up && (h.next(up).wide() > x) == up, "{x}");
                assert_eq!(b.next(up).next(!up).wide(), x);
                assert_eq!(h.next(up).next(!up).wide(), x);
            }
        }
        assert_eq!(bf16::narrow(1.0).next(true).wide(), 1.0 + 2f64.powi(-7));
        assert_eq!(f16::narrow(1.0).next(false).wide(), 1.0 - 2f64.powi(-11));
    }

    /// 1 + 2⁻¹¹ is halfway between two f16; the tail 2⁻⁴⁰ must break the tie although f32 cannot hold it.
    #[test]
    fn narrow_types_round_once() {
        let half = 1.0 + 2f64.powi(-11);
        assert_eq!(f16::narrow(half).wide(), 1.0);
        assert_eq!(f16::narrow(half + 2f64.powi(-40)).wide(), 1.0 + 2f64.powi(-10));
        assert_eq!(f16::narrow(-(half + 2f64.powi(-40))).wide(), -1.0 - 2f64.powi(-10));
        let half = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16::narrow(half).wide(), 1.0);
        assert_eq!(bf16::narrow(half + 2f64.powi(-40)).wide(), 1.0 + 2f64.powi(-7));
        assert_eq!(bf16::narrow(1.0 + 3.0 * 2f64.powi(-8) - 2f64.powi(-40)).wide(), 1.0 + 2f64.powi(-7));
    }
}
