//! Numbers, tables and lines for people.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Prints a line to stdout. A reader that went away (`| head`) is no reason to stop training.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line to stderr.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `1234567` → `1,234,567`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `245760` → `240.0 KiB`.
pub fn bytes(n: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `4000 s` → `1 h 6 min`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// Columns as wide as their widest cell, two spaces between; the first `left` columns to the left, the rest to the
/// right. The first row is the head.
pub fn table(rows: &[Vec<String>], left: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(c, s): (usize, &String)| {
        let w = widths[c];
        if c < left { format!("{s:<w$}") } else { format!("{s:>w$}") }
    };
    rows.iter().map(|r| r.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_string()).collect()
}

/// Text as an indented block.
pub fn block(text: &str) -> String {
    text.lines().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// A word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A path for a POSIX shell.
pub fn quote_path(path: &Path) -> String {
    quote(&path.display().to_string())
}

/// How the user calls this program, to be repeated in hints.
pub fn program() -> String {
    if std::env::var_os("CARGO").is_some() && std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        return "cargo run --release --".into();
    }
    std::env::args().next().map_or_else(|| "lowrank".into(), |name| quote(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(["1", "999", "1,000", "1,234,567"], [1, 999, 1000, 1234567].map(thousands).each_ref().map(|s| &**s));
        assert_eq!(["5 B", "240.0 KiB", "1.5 MiB"], [5, 245760, 3 << 19].map(bytes).each_ref().map(|s| &**s));
        let time = |s| duration(Duration::from_secs(s));
        assert_eq!((time(59), time(61), time(4000)), ("59 s".into(), "1 min 1 s".into(), "1 h 6 min".into()));
    }

    #[test]
    fn shell_words() {
        assert_eq!(quote("a/b-1.txt"), "a/b-1.txt");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn tables_line_up() {
        let row = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        assert_eq!(table(&[row("name", "n"), row("a", "100")], 1), ["name    n", "a     100"]);
    }
}
