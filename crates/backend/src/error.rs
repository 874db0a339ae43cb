//! The error of everything below the file readers: one line that names the operation, the shapes and the device.

use crate::DType;

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an operation. Every variant prints as one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Shapes or lengths do not fit together.
    #[error("{op}: {detail}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The tensors, by name, with their shapes.
        detail: String,
    },
    /// A dtype the operation does not take.
    #[error("{op}: {what} has dtype {got}, expected {expected}")]
    DType {
        /// The operation.
        op: &'static str,
        /// Which operand.
        what: String,
        /// What it has.
        got: DType,
        /// What it should have, in words.
        expected: String,
    },
    /// Operands on two devices.
    #[error("{op}: operands on different devices, {left} and {right}; move one of them first")]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// Device of the first operand.
        left: String,
        /// Device of the other one.
        right: String,
    },
    /// The device does not have this feature; nothing slower is run in its place.
    #[error("{op}: {device} does not support {what}")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// The device.
        device: String,
        /// The feature.
        what: String,
    },
    /// A value outside its range.
    #[error("{op}: {detail}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// The value and its range.
        detail: String,
    },
    /// The device has no memory left.
    #[error("{device}: out of memory: {requested} bytes requested with {live} in use")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        requested: usize,
        /// Bytes in use at that moment.
        live: u64,
    },
    /// The device itself failed, is absent or was not compiled in.
    #[error("{device}: {detail}")]
    Device {
        /// The device.
        device: String,
        /// What happened, and what to do.
        detail: String,
    },
    /// Misuse of the autograd graph.
    #[error("{op}: {detail}")]
    Graph {
        /// The operation.
        op: &'static str,
        /// What happened.
        detail: String,
    },
}

impl Error {
    /// A [`Error::Shape`].
    pub fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Shape { op, detail: detail.into() }
    }

    /// A [`Error::Invalid`].
    pub fn invalid(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Invalid { op, detail: detail.into() }
    }

    /// A [`Error::Unsupported`].
    pub fn unsupported(op: &'static str, device: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Unsupported { op, device: device.into(), what: what.into() }
    }

    /// A [`Error::DType`].
    pub fn dtype(op: &'static str, what: impl Into<String>, got: DType, expected: impl Into<String>) -> Self {
        Error::DType { op, what: what.into(), got, expected: expected.into() }
    }

    /// A [`Error::Graph`].
    pub fn graph(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Graph { op, detail: detail.into() }
    }
}
