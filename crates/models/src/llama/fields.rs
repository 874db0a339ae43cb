//! Checked reading of a JSON object from an untrusted file: every message names the file and the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Error, Result, in_file};

/// A JSON object and the file it came from. A field that is null counts as absent, as in Hugging Face's files.
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Path of the object in the file, with a trailing dot, or empty.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a str, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Fields { file, prefix: String::new(), map }),
            _ => Err(in_file(file, "is not a JSON object")),
        }
    }

    /// The object in a field.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Fields<'a>>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Fields { file: self.file, prefix: format!("{}{field}.", self.prefix), map }))
            }
            Some(other) => Err(self.wrong(field, other, "an object")),
        }
    }

    /// A field's value unless it is absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// Whether a field is there and null.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    /// An error about a field.
    pub(crate) fn error(&self, field: &str, detail: impl std::fmt::Display) -> Error {
        in_file(self.file, format!("{}{field}: {detail}", self.prefix))
    }

    fn wrong(&self, field: &str, got: &Value, want: &str) -> Error {
        let mut shown: String = got.to_string().chars().take(60).collect();
        if shown.len() < got.to_string().len() {
            shown.push('…');
        }
        self.error(field, format!("{shown} is not {want}"))
    }

    fn missing(&self, field: &str) -> Error {
        self.error(field, "is missing")
    }

    /// A whole number in 1 ..= `max`, or `default` where absent.
    pub(crate) fn size(&self, field: &str, default: Option<usize>, max: usize) -> Result<usize> {
        let Some(value) = self.get(field) else { return default.ok_or_else(|| self.missing(field)) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(n),
            _ => Err(self.wrong(field, value, &format!("a whole number in 1 ..= {max}"))),
        }
    }

    /// A number in `range`, or `default` where absent.
    pub(crate) fn number(&self, field: &str, default: Option<f64>, range: RangeInclusive<f64>) -> Result<f64> {
        let Some(value) = self.get(field) else { return default.ok_or_else(|| self.missing(field)) };
        match value.as_f64() {
            Some(x) if range.contains(&x) => Ok(x),
            _ => {
                let (low, high) = range.into_inner();
                Err(self.wrong(field, value, &format!("a number in {low:?} ..= {high:?}")))
            }
        }
    }

    /// true or false, or `default` where absent.
    pub(crate) fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(field, other, "true or false")),
        }
    }

    /// A string.
    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(field, other, "a string")),
        }
    }

    /// A token number, or a list of them, or nothing.
    pub(crate) fn tokens(&self, field: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let tokens = match value {
            Value::Array(items) => items.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        tokens.ok_or_else(|| self.wrong(field, value, "a token number, a list of them or null"))
    }
}
