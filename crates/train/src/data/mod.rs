//! From a file to examples: what is trained on, and what is held out.

mod jsonl;
mod text;

use std::path::Path;

use lowrank_core::IGNORE;

use crate::{Error, Result};

/// Turns text into token numbers; with `true`, adds those that the tokenizer puts around a text (a BOS, say).
pub type Encode<'a> = dyn Fn(&str, bool) -> lowrank_lora::Result<Vec<u32>> + 'a;

/// A sequence to learn from: `targets[i]` is what should follow `ids[..= i]`, or [`IGNORE`] where the loss does not look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// What it should predict, as long as `ids`.
    pub targets: Vec<u32>,
}

impl Example {
    /// Every next token of `tokens` (at least 2) is a target.
    pub fn next_tokens(tokens: &[u32]) -> Self {
        Example { ids: tokens[..tokens.len() - 1].to_vec(), targets: tokens[1..].to_vec() }
    }

    /// Number of targets that the loss looks at.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One running text.
    Text,
    /// One JSON object a line: `{"text"}` or `{"prompt","completion"}`.
    Jsonl,
}

impl Format {
    /// By the file's ending: `.jsonl` and `.ndjson` are JSONL, anything else is text.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some(e) if e.eq_ignore_ascii_case("jsonl") || e.eq_ignore_ascii_case("ndjson") => Format::Jsonl,
            _ => Format::Text,
        }
    }
}

/// What the split into examples depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// Longest `ids` of an example, in tokens.
    pub seq_len: usize,
    /// Seed of the split of JSONL documents.
    pub seed: u64,
    /// Token that ends a JSONL document, if the model has one.
    pub eos: Option<u32>,
    /// Size of the model's vocabulary; a larger token number is an error.
    pub vocab_size: usize,
}

/// Examples to train on and examples held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// To train on.
    pub train: Vec<Example>,
    /// Held out: about a tenth.
    pub valid: Vec<Example>,
    /// JSONL documents that were longer than an example and lost their end.
    pub cut: usize,
    /// JSONL documents left out, because no target was left of them.
    pub dropped: usize,
}

impl Dataset {
    /// Splits a file. Text: the last tenth of the tokens is held out. JSONL: a tenth of the documents, at least 1.
    ///
    /// Errors name the file, and for JSONL the line and the field.
    pub fn from_bytes(
        file: &str,
        bytes: &[u8],
        format: Format,
        encode: &Encode<'_>,
        options: &DataOptions,
    ) -> Result<Self> {
        check_seq_len(options)?;
        let text = utf8(file, bytes)?;
        match format {
            Format::Text => {
                let tokens = text::tokens(file, text, encode, options)?;
                let (train, valid) = text::split(file, &tokens, options.seq_len)?;
                Ok(Dataset { train, valid, cut: 0, dropped: 0 })
            }
            Format::Jsonl => {
                let documents = jsonl::documents(file, text, encode, options)?;
                let (train, valid) = jsonl::split(file, documents.examples, options.seed)?;
                Ok(Dataset { train, valid, cut: documents.cut, dropped: documents.dropped })
            }
        }
    }

    /// Everything in `valid`, nothing to train on: for an evaluation of a whole file.
    pub fn whole(file: &str, bytes: &[u8], format: Format, encode: &Encode<'_>, options: &DataOptions) -> Result<Self> {
        check_seq_len(options)?;
        let text = utf8(file, bytes)?;
        let (valid, cut, dropped) = match format {
            Format::Text => {
                let tokens = text::tokens(file, text, encode, options)?;
                (text::windows(&tokens, options.seq_len), 0, 0)
            }
            Format::Jsonl => {
                let documents = jsonl::documents(file, text, encode, options)?;
                (documents.examples, documents.cut, documents.dropped)
            }
        };
        if valid.is_empty() {
            return Err(Error::data(file, "nothing to predict; at least 2 tokens are needed"));
        }
        Ok(Dataset { train: Vec::new(), valid, cut, dropped })
    }

    /// Length of the longest example, in tokens.
    pub fn longest(&self) -> usize {
        self.train.iter().chain(&self.valid).map(|e| e.ids.len()).max().unwrap_or(0)
    }
}

fn check_seq_len(options: &DataOptions) -> Result<()> {
    if options.seq_len == 0 { Err(Error::option("--seq-len", "0 tokens; at least 1")) } else { Ok(()) }
}

fn utf8<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|&&b| b == b'\n').count();
        Error::data(file, format!("line {line}: not UTF-8 (byte {at})"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Error::data(file, "is empty; there is nothing to learn from"));
    }
    Ok(text)
}

/// Token numbers of a piece of text, each below the model's vocabulary.
fn encode_checked(
    file: &str,
    place: &str,
    (text, add_special): (&str, bool),
    encode: &Encode<'_>,
    options: &DataOptions,
) -> Result<Vec<u32>> {
    let ids = encode(text, add_special)?;
    match ids.iter().find(|&&id| id as usize >= options.vocab_size) {
        None => Ok(ids),
        Some(id) => {
            let size = options.vocab_size;
            let detail = format!("{place}the tokenizer gives token {id}, but the model's vocab_size is {size}");
            Err(Error::data(file, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str, _: bool) -> lowrank_lora::Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    const OPTIONS: DataOptions = DataOptions { seq_len: 4, seed: 0, eos: None, vocab_size: 256 };

    fn error(format: Format, data: &[u8]) -> String {
        Dataset::from_bytes("f", data, format, &bytes, &OPTIONS).unwrap_err().to_string()
    }

    #[test]
    fn formats_by_ending() {
        assert_eq!(Format::of(Path::new("a/b.JSONL")), Format::Jsonl);
        assert_eq!(Format::of(Path::new("b.txt")), Format::Text);
        assert_eq!(Format::of(Path::new("jsonl")), Format::Text);
    }

    #[test]
    fn bad_files_are_named() {
        assert_eq!(error(Format::Text, b""), "f: is empty; there is nothing to learn from");
        assert_eq!(error(Format::Jsonl, b"\n \n"), "f: is empty; there is nothing to learn from");
        assert_eq!(error(Format::Text, b"ab\ncd\xff"), "f: line 2: not UTF-8 (byte 5)");
        assert!(
            error(Format::Text, b"too short").starts_with("f: 9 tokens are too few"),
            "{}",
            error(Format::Text, b"t")
        );
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_an_error() {
        let options = DataOptions { vocab_size: 100, ..OPTIONS };
        let e = Dataset::from_bytes("f", b"aaaaaaaaaaaaaaaaaaaaazaaaaa", Format::Text, &bytes, &options).unwrap_err();
        assert_eq!(e.to_string(), "f: the tokenizer gives token 122, but the model's vocab_size is 100");
    }

    #[test]
    fn whole_text_is_all_windows() {
        let d = Dataset::whole("f", b"0123456789abcde", Format::Text, &bytes, &OPTIONS).unwrap();
        assert_eq!(d.valid.len(), 3);
        assert!(d.train.is_empty());
    }
}
