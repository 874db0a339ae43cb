//! Typed access to a JSON object; errors name the field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// What is left of an object: fields are taken out as they are read.
pub(super) struct Fields(pub Map<String, Value>);

/// A pattern's values by key, and its keys in the file's order.
type Pattern<T> = (BTreeMap<String, T>, Vec<String>);

impl Fields {
    /// Takes a field out; null counts as missing.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        // Order has a meaning here (of patterns) and is pleasant in what is written back.
        self.0.shift_remove(name).filter(|v| !v.is_null())
    }

    pub(super) fn optional<T>(&mut self, name: &str, read: impl Fn(&str, &Value) -> Result<T>) -> Result<Option<T>> {
        self.take(name).map(|v| read(name, &v)).transpose()
    }

    pub(super) fn pattern<T>(&mut self, name: &str, read: impl Fn(&str, &Value) -> Result<T>) -> Result<Pattern<T>> {
        let map = match self.take(name) {
            None => return Ok((BTreeMap::new(), Vec::new())),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(wrong(name, &other, "an object")),
        };
        let order = map.keys().cloned().collect();
        let entry = |(k, v): (String, Value)| read(&format!("{name}: `{k}`"), &v).map(|v| (k, v));
        Ok((map.into_iter().map(entry).collect::<Result<_>>()?, order))
    }

    pub(super) fn whole(field: &str, value: &Value) -> Result<usize> {
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| wrong(field, value, "a whole number, 0 or more"))
    }

    pub(super) fn number(field: &str, value: &Value) -> Result<f64> {
        value.as_f64().ok_or_else(|| wrong(field, value, "a number"))
    }

    pub(super) fn truth(field: &str, value: &Value) -> Result<bool> {
        value.as_bool().ok_or_else(|| wrong(field, value, "true or false"))
    }

    pub(super) fn string(field: &str, value: &Value) -> Result<String> {
        value.as_str().map(str::to_string).ok_or_else(|| wrong(field, value, "a string"))
    }

    pub(super) fn strings(field: &str, value: &Value) -> Result<Vec<String>> {
        let Value::Array(list) = value else { return Err(wrong(field, value, "a list of names")) };
        list.iter().map(|v| Fields::string(field, v)).collect()
    }

    pub(super) fn string_or_strings(field: &str, value: &Value) -> Result<Vec<String>> {
        match value {
            Value::String(s) if s.is_empty() => Ok(Vec::new()),
            Value::String(s) => Ok(vec![s.clone()]),
            _ => Fields::strings(field, value),
        }
    }
}

fn wrong(field: &str, value: &Value, expected: &str) -> Error {
    let mut text = value.to_string();
    if text.chars().count() > 60 {
        text = text.chars().take(60).chain("…".chars()).collect();
    }
    Error::config(field, format!("{text} is not {expected}"))
}
