//! The error of everything above tensors: one line that names the file and the field, or the module.

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with adapters, models and their files. Every variant prints as one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] lowrank_core::Error),
    /// A file's content is not what it should be.
    #[error("{file}: {detail}")]
    File {
        /// The file.
        file: String,
        /// The field or tensor, and what is wrong with it.
        detail: String,
    },
    /// A setting outside its range.
    #[error("{field}: {detail}")]
    Config {
        /// The setting.
        field: String,
        /// Its value and what it should be.
        detail: String,
    },
    /// Targets that match nothing, too little, or what cannot carry an adapter.
    #[error("{0}")]
    Targets(String),
    /// An adapter that does not fit its host, or is in the wrong state for what is asked.
    #[error("{0}")]
    Adapter(String),
    /// Reading or writing failed.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// A [`Error::File`]. Control characters (names in files are untrusted) are escaped, so that it stays one line.
    pub fn file(file: impl AsRef<str>, detail: impl AsRef<str>) -> Self {
        Error::File { file: one_line(file.as_ref()), detail: one_line(detail.as_ref()) }
    }

    /// A [`Error::Config`].
    pub fn config(field: impl Into<String>, detail: impl AsRef<str>) -> Self {
        Error::Config { field: field.into(), detail: one_line(detail.as_ref()) }
    }

    /// A [`Error::Targets`].
    pub fn targets(detail: impl AsRef<str>) -> Self {
        Error::Targets(one_line(detail.as_ref()))
    }

    /// A [`Error::Adapter`].
    pub fn adapter(detail: impl AsRef<str>) -> Self {
        Error::Adapter(one_line(detail.as_ref()))
    }

    /// A setting's or target's error as one of the file that it came from.
    pub(crate) fn in_file(self, file: &str) -> Self {
        match self {
            Error::Config { .. } | Error::Targets(_) | Error::Adapter(_) => Error::file(file, self.to_string()),
            other => other,
        }
    }
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_on_one_line() {
        let e = Error::file("a.safetensors", "tensor `x\ny\u{1b}[31m`: bad");
        assert_eq!(e.to_string(), "a.safetensors: tensor `x\\ny\\u{1b}[31m`: bad");
    }
}
