//! How a command fails: one line on stderr and an exit code.

use std::fmt::Display;
use std::process::ExitCode;

use crate::show::complain;

/// Shorthand for a result with [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Exit code of a run that the user stopped: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The end of a command that did not work out.
pub struct Failure {
    /// One line; none if everything has been said.
    message: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Display) -> Self {
        Failure { message: Some(message.to_string()), code: 1 }
    }

    /// Exit code 1, after everything has been said.
    pub fn told() -> Self {
        Failure { message: None, code: 1 }
    }

    /// The user stopped it; `message` may add something.
    pub fn interrupted(message: Option<String>) -> Self {
        Failure { message, code: INTERRUPTED }
    }

    /// Prints the line.
    pub fn report(self) -> ExitCode {
        if let Some(message) = &self.message {
            // Messages quote other libraries, which may break lines.
            let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
            complain(&format!("error: {line}"));
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure::new(e)
    }
}
