//! Inits that look at the model: what they found, and the forms that their adapters are saved in.

use std::str::FromStr;

use lowrank_lora::{InitReport, Lost};

use crate::failure::Result;
use crate::show::{bytes, table};

/// What an init from data found, and what it cost.
pub fn describe_init(report: &InitReport, seconds: f64) -> Vec<String> {
    let mut lines = Vec::new();
    if !report.layers.is_empty() {
        let mut rows = vec![["layer", "cos(first step, -G)", "error", "best", "|G|"].map(String::from).to_vec()];
        for (name, f) in &report.layers {
            let number = |x: f64| format!("{}{x:.4}", if f.estimated { "≈" } else { "" });
            rows.push(vec![name.clone(), number(f.cosine), number(f.error), number(f.best), format!("{:.3e}", f.norm)]);
        }
        lines.push("init, relative error of the first step beside the best of rank 2r".into());
        lines.extend(table(&rows, 1).into_iter().map(|line| format!("  {line}")));
    }
    let cost = &report.cost;
    lines.push(format!(
        "init took {seconds:.1} s: {} passes over a micro-batch, {:.2} GFLOP for gradients and sketches, {} of them in \
         memory\n",
        cost.runs,
        cost.flops / 1e9,
        bytes(4 * cost.elements)
    ));
    lines
}

pub fn describe_loss(lost: &[Lost]) -> String {
    let total = |f: &dyn Fn(&Lost) -> f64| lost.iter().map(|l| f(l) * f(l)).sum::<f64>().sqrt();
    let (all, gone) = (total(&|l| l.norm), total(&|l| l.lost));
    let worst = lost.iter().max_by(|a, b| (a.lost * b.norm).total_cmp(&(b.lost * a.norm)));
    let worst = worst.map_or(String::new(), |l| {
        format!("; the most in {}, {:.2} %", l.layer, 100.0 * l.lost / l.norm.max(f64::MIN_POSITIVE))
    });
    format!("recompressed to rank r: {:.2} % of the change is lost{worst}", 100.0 * gone / all.max(f64::MIN_POSITIVE))
}

/// Forms of a saved adapter whose init split the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveAs {
    /// Plain LoRA of rank 2r.
    Plain,
    /// The best plain LoRA of rank r.
    Recompressed,
    /// Adapter and init.
    Pair,
}

impl FromStr for SaveAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(SaveAs::Plain),
            "recompressed" => Ok(SaveAs::Recompressed),
            "pair" => Ok(SaveAs::Pair),
            _ => Err("write plain, recompressed or pair".into()),
        }
    }
}
