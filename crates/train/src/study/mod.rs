//! Small experiments that answer one question each, with a table and a picture. Seeded: the same command gives the same
//! numbers on the same kind of processor.

mod language;
mod methods;
mod starts;
mod trials;

use std::path::Path;

use lowrank_lora::files;

use crate::sweep::markdown;
use crate::{Chart, Error, Result};

pub use language::{language_steps, rank, targets};
pub use methods::{family, methods};
pub use starts::starts;
pub use trials::Effort;

/// What a study found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it asks.
    pub question: String,
    /// How it was done: a paragraph.
    pub method: String,
    /// Tables with a line above each; the first row of a table is the head.
    pub tables: Vec<(String, Vec<Vec<String>>)>,
    /// The picture.
    pub chart: Chart,
}

impl Report {
    /// The text, with the command that made it.
    pub fn markdown(&self, command: &str) -> String {
        let Report { name, question, method, tables, .. } = self;
        let mut text = format!("# {question}\n\n`{command}`\n\n{method}\n");
        for (above, rows) in tables {
            text += &format!("\n{above}\n\n{}", markdown(rows));
        }
        text + &format!("\n![{question}]({name}.svg)\n")
    }

    /// Writes `NAME.md` and `NAME.svg` into a directory, in place of older ones.
    pub fn write(&self, dir: &Path, command: &str) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::output(dir, e))?;
        let svg = self.chart.svg()?;
        files::write_atomically(&dir.join(format!("{}.md", self.name)), self.markdown(command).as_bytes())?;
        files::write_atomically(&dir.join(format!("{}.svg", self.name)), svg.as_bytes())?;
        Ok(())
    }
}

/// Mean, and half the distance between the smallest and the largest: `4.123 ± 0.004`.
fn spread(values: &[f64]) -> String {
    if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
        return "diverged".into();
    }
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    format!("{:.4} ± {:.4}", mean(values), (high - low) / 2.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_its_command() {
        let chart = Chart { title: "t".into(), x: "x".into(), y: "y".into(), log_x: false, series: Vec::new() };
        let rows = vec![vec!["a".to_string(), "b".into()], vec!["1".into(), "2".into()]];
        let report = Report {
            name: "n",
            question: "Why?".into(),
            method: "So.".into(),
            tables: vec![("Above".into(), rows)],
            chart,
        };
        let text = report.markdown("lowrank study n");
        assert!(text.starts_with("# Why?\n\n`lowrank study n`\n\nSo.\n\nAbove\n\n| a | b |\n"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        report.write(&dir.path().join("new"), "c").unwrap();
        report.write(&dir.path().join("new"), "c").unwrap();
        assert!(dir.path().join("new/n.svg").exists() && dir.path().join("new/n.md").exists());
    }

    #[test]
    fn spreads() {
        assert_eq!(spread(&[1.0, 2.0, 1.5]), "1.5000 ± 0.5000");
        assert_eq!(spread(&[1.0, f64::NAN]), "diverged");
    }
}
