//! Text to tokens and back, by a model's `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Error, LlamaConfig, Result, in_file};

/// A Hugging Face tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: String,
    size: usize,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`. `file` is its name in messages.
    ///
    /// Truncation and padding that the file may ask for are switched off: they would quietly cut or fill data.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        // Some texts that are no JSON would only be found by a panic below.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| in_file(file, format!("not JSON: {e}")))?;
        let (inner, size) = guarded(file, "is not a usable tokenizer", || {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
            Ok((inner, size))
        })?;
        if size == 0 {
            return Err(in_file(file, "the tokenizer has no tokens"));
        }
        Ok(Tokenizer { inner, file: file.to_string(), size })
    }

    /// From the `tokenizer.json` in a directory.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let file = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { file: file.clone(), source })?;
        Tokenizer::from_bytes(&file, &bytes)
    }

    /// The same, checked to fit a model.
    pub fn load_for(dir: &Path, config: &LlamaConfig) -> Result<Self> {
        let tokenizer = Tokenizer::load(dir)?;
        tokenizer.check_fits(config)?;
        Ok(tokenizer)
    }

    /// Fails if the tokenizer has tokens that the model has not.
    pub fn check_fits(&self, config: &LlamaConfig) -> Result<()> {
        if self.size <= config.vocab_size {
            return Ok(());
        }
        let detail = format!("the tokenizer has {} tokens, the model {}", self.size, config.vocab_size);
        Err(in_file(&self.file, detail))
    }

    /// The largest token number plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The tokens of a text. With `add_special`, also those the tokenizer puts around a text (a BOS, say), as
    /// Hugging Face does by default.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        guarded(&self.file, "cannot encode the text", || {
            Ok(self.inner.encode_fast(text, add_special)?.get_ids().to_vec())
        })
    }

    /// The text of tokens. Special tokens, and numbers that only the model has (rows that pad its embedding), have none.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.file, "cannot decode tokens", || self.inner.decode(ids, true))
    }
}

/// Runs `f`, turning its error into one about the file, and its panic too: the tokenizers crate has `expect`s that a
/// damaged file can reach.
fn guarded<T>(file: &str, what: &str, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(in_file(file, format!("{what}: {e}"))),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(in_file(file, format!("{what}: the tokenizers library panicked: {message}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words a, b and c; [S] goes before every text; texts are to be cut after two tokens, which must not happen.
    const JSON: &str = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [{"id": 4, "content": "[S]", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[S]", "type_id": 0}},
                            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                            "special_tokens": {"[S]": {"id": "[S]", "ids": [4], "tokens": ["[S]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "?": 3}, "unk_token": "?"}
    }"#;

    #[test]
    fn encodes_and_decodes() {
        let t = Tokenizer::from_bytes("tokenizer.json", JSON.as_bytes()).unwrap();
        assert_eq!(t.vocab_size(), 5);
        assert_eq!(t.encode("c a b x", false).unwrap(), [2, 0, 1, 3]);
        assert_eq!(t.encode("c a b x", true).unwrap(), [4, 2, 0, 1, 3]);
        assert_eq!(t.decode(&[4, 2, 0]).unwrap(), "c a");
    }

    #[test]
    fn a_model_with_fewer_tokens_is_refused() {
        let t = Tokenizer::from_bytes("tokenizer.json", JSON.as_bytes()).unwrap();
        let config = |vocab: usize| {
            let json = format!(
                r#"{{"model_type":"llama","vocab_size":{vocab},"hidden_size":4,"intermediate_size":4,
                    "num_hidden_layers":1,"num_attention_heads":1,"max_position_embeddings":8}}"#
            );
            LlamaConfig::from_json("config.json", &json).unwrap()
        };
        t.check_fits(&config(5)).unwrap();
        let error = t.check_fits(&config(4)).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains("5 tokens") && error.contains("model 4"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        let number_for_decoder = JSON.replace(r#""decoder": null"#, r#""decoder": 3"#);
        for text in ["{}", "", "3", &JSON[..JSON.len() / 2], &number_for_decoder] {
            let error = Tokenizer::from_bytes("t.json", text.as_bytes()).err().unwrap().to_string();
            assert!(error.starts_with("t.json: ") && !error.contains('\n'), "{error}");
        }
    }
}
