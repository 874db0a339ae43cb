//! The error of data, training and saving: one line that names the file or the option.

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Every variant prints as one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model, an adapter, a tensor operation or a file of theirs.
    #[error(transparent)]
    Lora(#[from] lowrank_lora::Error),
    /// A training file that cannot be used.
    #[error("{file}: {detail}")]
    Data {
        /// The file.
        file: String,
        /// Line, field and what is wrong.
        detail: String,
    },
    /// An option outside its range.
    #[error("{field}: {detail}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// Its value and its range.
        detail: String,
    },
    /// The loss or the gradient is no longer a number.
    #[error("step {step}: the {what} is {value}; training stopped and saved nothing; try a lower --lr than {lr}")]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Learning rate of that step.
        lr: f64,
    },
    /// Stopped by the user with nothing to save.
    #[error("interrupted before the first step; nothing was saved")]
    Interrupted,
    /// A file or directory that cannot be written.
    #[error("{path}: {detail}")]
    Output {
        /// Where.
        path: String,
        /// What happened.
        detail: String,
    },
}

impl From<lowrank_core::Error> for Error {
    fn from(e: lowrank_core::Error) -> Self {
        Error::Lora(e.into())
    }
}

impl Error {
    pub(crate) fn data(file: &str, detail: impl Into<String>) -> Self {
        Error::Data { file: file.to_string(), detail: detail.into() }
    }

    pub(crate) fn option(field: &'static str, detail: impl Into<String>) -> Self {
        Error::Option { field, detail: detail.into() }
    }

    pub(crate) fn output(path: &std::path::Path, detail: impl ToString) -> Self {
        Error::Output { path: path.display().to_string(), detail: detail.to_string() }
    }
}
