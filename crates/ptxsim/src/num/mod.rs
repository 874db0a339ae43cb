//! Arithmetic that Rust does not offer: small float formats, directed rounding, conversions with saturation.

pub(crate) mod arith;
pub(crate) mod convert;
pub(crate) mod formats;

pub(crate) use arith::*;
pub(crate) use convert::*;
pub(crate) use formats::*;
