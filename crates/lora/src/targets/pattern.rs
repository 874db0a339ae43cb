//! Python's regular expressions, as far as they mean the same here, and lists of names.

use regex::Regex;

use crate::{Error, Result, Targets};

/// A compiled [`Targets`].
pub(crate) enum Pattern {
    AllLinear,
    Regex(Regex),
    List(Vec<String>),
}

impl Pattern {
    pub(crate) fn new(field: &str, targets: &Targets) -> Result<Self> {
        Ok(match targets {
            Targets::AllLinear => Pattern::AllLinear,
            Targets::Regex(source) => Pattern::Regex(regex(field, source, |s| format!(r"\A(?:{s})\z"))?),
            Targets::List(list) => Pattern::List(list.clone()),
        })
    }
}

/// Whether a list's entry stands for this name: equal to it, or the end of it from a dot on.
pub(crate) fn entry_matches(entry: &str, name: &str) -> bool {
    name.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Compiles `wrap(pattern)`. A pattern that Python would read differently is refused, as is one this library has not
/// got (look-around, back-references); the error names the field and the pattern.
pub(crate) fn regex(field: &str, pattern: &str, wrap: impl Fn(&str) -> String) -> Result<Regex> {
    let refuse = |why: &str| Err(Error::config(field, format!("regular expression `{pattern}`: {why}")));
    // Set operations inside [], and possessive repetition: legal in both languages, with another meaning.
    for sign in ["&&", "--", "~~", "[[", "++", "*+", "?+", "}+"] {
        if pattern.contains(sign) {
            return refuse(&format!("`{sign}` is read differently by Python and is not supported"));
        }
    }
    // Alone first: `a)(b` must not be balanced by the wrapping.
    match Regex::new(pattern).and_then(|_| Regex::new(&wrap(pattern))) {
        Ok(regex) => Ok(regex),
        Err(e) => {
            let text = e.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            refuse(last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_from_a_dot_on() {
        assert!(entry_matches("q_proj", "a.q_proj") && entry_matches("a.q_proj", "a.q_proj"));
        assert!(!entry_matches("proj", "a.q_proj") && !entry_matches("b.q_proj", "q_proj"));
        assert!(!entry_matches("", "a.q_proj"));
    }

    #[test]
    fn what_differs_from_python_is_refused() {
        let refuse = |p: &str| regex("target_modules", p, str::to_string).unwrap_err().to_string();
        let e = refuse("a(?!b)");
        assert!(e.starts_with("target_modules: regular expression `a(?!b)`: look-around") && !e.contains('\n'), "{e}");
        assert!(refuse("[a-z&&[^b]]").contains("Python"));
        assert!(refuse("a)(b").contains("unopened"));
        assert!(refuse("(a{1000}){1000}{1000}").contains("size limit"));
    }
}
