//! What can go wrong before a kernel runs: text that is not PTX, opcodes that are not implemented, launches that a
//! driver would refuse. Everything that goes wrong while a kernel runs is a [`crate::Finding`] instead.

use std::fmt;

/// The class of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is not well-formed PTX, or names something it does not declare.
    Syntax,
    /// The text is PTX, but uses an opcode, modifier or directive that is not implemented.
    Unsupported,
    /// The kernel cannot be launched this way (grid, block, shared memory, arguments).
    Launch,
    /// A host access to device memory was out of bounds.
    Memory,
}

/// An error with the PTX line that caused it (0 when no line is to blame).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line of the PTX text, counted from 1; 0 if the error belongs to no line.
    pub line: u32,
    /// The class of the error.
    pub kind: ErrorKind,
    /// One line for people, without the line number.
    pub message: String,
}

impl Error {
    pub(crate) fn syntax(line: u32, message: impl Into<String>) -> Self {
        Error { line, kind: ErrorKind::Syntax, message: message.into() }
    }
    pub(crate) fn unsupported(line: u32, what: impl fmt::Display) -> Self {
        Error { line, kind: ErrorKind::Unsupported, message: format!("not implemented: {what}") }
    }
    pub(crate) fn launch(message: impl Into<String>) -> Self {
        Error { line: 0, kind: ErrorKind::Launch, message: message.into() }
    }
    pub(crate) fn memory(message: impl Into<String>) -> Self {
        Error { line: 0, kind: ErrorKind::Memory, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T> = std::result::Result<T, Error>;
