//! PTX text to tokens with line numbers. A word keeps its dots (`ld.global.v4.u32`, `%tid.x`, `shared::cta`), because
//! PTX separates opcode and modifiers by nothing else; punctuation is single characters.

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    /// Identifier, register, directive (leading dot), opcode with modifiers, or number.
    Word(&'a str),
    Str(&'a str),
    Punct(char),
}

#[derive(Clone, Debug)]
pub(crate) struct Token<'a> {
    pub tok: Tok<'a>,
    pub line: u32,
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

/// Splits the text into tokens; comments and white space vanish.
pub(crate) fn lex(src: &str) -> Result<Vec<Token<'_>>> {
    let b = src.as_bytes();
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1u32);
    while i < b.len() {
        match b[i] {
            b'\n' => {
                line = line.saturating_add(1);
                i += 1;
            }
            c if c.is_ascii_whitespace() || c == 0 => i += 1,
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if b.get(i + 1) == Some(&b'*') => {
                let start = line;
                i += 2;
                loop {
                    match b.get(i) {
                        None => return Err(Error::syntax(start, "comment is never closed")),
                        Some(b'*') if b.get(i + 1) == Some(&b'/') => break,
                        Some(b'\n') => line = line.saturating_add(1),
                        _ => {}
                    }
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                let s = i + 1;
                i = s;
                while i < b.len() && b[i] != b'"' && b[i] != b'\n' {
                    i += 1;
                }
                if b.get(i) != Some(&b'"') {
                    return Err(Error::syntax(line, "string is never closed"));
                }
                out.push(Token { tok: Tok::Str(&src[s..i]), line });
                i += 1;
            }
            c if word_byte(c) => {
                let s = i;
                while i < b.len() {
                    if word_byte(b[i]) {
                        i += 1;
                    } else if b[i] == b':' && b.get(i + 1) == Some(&b':') {
                        i += 2;
                    } else {
                        break;
                    }
                }
                out.push(Token { tok: Tok::Word(&src[s..i]), line });
            }
            c @ (b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@' | b'!' | b'+'
            | b'-' | b'=' | b'|' | b'*' | b'~') => {
                out.push(Token { tok: Tok::Punct(c as char), line });
                i += 1;
            }
            _ => {
                let c = src[i..].chars().next().unwrap_or('?');
                return Err(Error::syntax(line, format!("unexpected character {c:?}")));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_dots_and_double_colons() {
        let t = lex("@%p1 mbarrier.init.shared::cta.b64 [%r1+-8], 0f3F800000; // c\n L: /* x\n */ ret;").unwrap();
        let s: Vec<String> = t.iter().map(|t| format!("{:?}@{}", t.tok, t.line)).collect();
        assert_eq!(s[2], "Word(\"mbarrier.init.shared::cta.b64\")@1");
        assert_eq!(s[5], "Punct('+')@1");
        assert_eq!(s.last().unwrap(), "Punct(';')@3");
    }

    #[test]
    fn broken_text_is_an_error_with_a_line() {
        assert_eq!(lex("a\n/* x").unwrap_err().line, 2);
        assert_eq!(lex("a\n\n\"x").unwrap_err().line, 3);
        assert_eq!(lex("a\nü").unwrap_err().line, 2);
    }
}
