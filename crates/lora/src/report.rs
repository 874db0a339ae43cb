//! How much an adapter trains.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Adapter, Host};

/// Counts of parameters. Prints as `trainable 61,440 of 914,048 (6.72 %), 240.0 KiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Parameters that are trained.
    pub trainable: usize,
    /// Those of the base (tied ones once) and of the adapter together.
    pub total: usize,
    /// Bytes of the trained ones.
    pub bytes: usize,
    /// Layers with a pair or a bottleneck, in the host's order.
    pub matched: Vec<String>,
}

pub(crate) fn of(adapter: &Adapter, host: &dyn Host) -> Report {
    let (mut trainable, mut bytes) = (0, 0);
    for (_, tensor) in adapter.parameters() {
        trainable += tensor.len();
        bytes += tensor.bytes();
    }
    let mut seen = BTreeSet::new();
    let mut matched = Vec::new();
    let mut base = 0;
    host.visit(&mut |m| {
        for tensor in [Some(m.base_weight()), m.base_bias()].into_iter().flatten() {
            if seen.insert(tensor.id()) {
                base += tensor.len();
            }
        }
        if adapter.layers.contains_key(m.name()) || adapter.bottlenecks.contains_key(m.name()) {
            matched.push(m.name().to_string());
        }
    });
    // A trained bias takes the place of the base's; a pair and a saved copy stand beside what the base has.
    let instead: usize = adapter.biases.values().map(|t| t.len()).sum();
    Report { trainable, total: base + trainable - instead, bytes, matched }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.trainable as f64 / self.total.max(1) as f64;
        let (trainable, total) = (grouped(self.trainable), grouped(self.total));
        write!(f, "trainable {trainable} of {total} ({percent:.2} %), {}", size(self.bytes))
    }
}

/// 1234567 → 1,234,567
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn size(bytes: usize) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_one_line() {
        let r = Report { trainable: 61_440, total: 914_048, bytes: 245_760, matched: Vec::new() };
        assert_eq!(r.to_string(), "trainable 61,440 of 914,048 (6.72 %), 240.0 KiB");
        assert_eq!(
            (grouped(7), grouped(1000), size(12), size(3 << 20)),
            ("7".into(), "1,000".into(), "12 B".into(), "3.0 MiB".into())
        );
    }
}
