//! An examination as a table and as a picture.

use super::{Examination, LayerReport, Severity};
use crate::chart::{Row, columns};

/// Head and value of the columns that both show.
type Column = (&'static str, fn(&LayerReport) -> Option<f64>);

const COLUMNS: [Column; 9] = [
    ("‖dA‖ step 0", |l| l.da[0]),
    ("‖dB‖ step 0", |l| l.db[0]),
    ("‖dA‖ step 1", |l| l.da[1]),
    ("‖dB‖ step 1", |l| l.db[1]),
    ("‖sBA‖/‖W‖", |l| l.ratio),
    ("step/‖W‖", |l| l.update_ratio),
    ("stable rank", |l| l.stable_rank[1].or(l.stable_rank[0])),
    ("forward scale", |l| l.forward_scale[1].or(l.forward_scale[0])),
    ("backward scale", |l| l.backward_scale[1].or(l.backward_scale[0])),
];

impl Examination {
    /// One row a layer; the first row is the head. Stable rank and scales are those after the step.
    pub fn table(&self) -> Vec<Vec<String>> {
        let mut head = vec!["layer".to_string(), "r".into()];
        head.extend(COLUMNS.map(|(name, _)| name.to_string()));
        head.extend(["suggested r".to_string(), "share at r".into()]);
        let row = |l: &LayerReport| {
            let mut row = vec![l.name.clone(), l.rank.to_string()];
            row.extend(COLUMNS.map(|(_, value)| value(l).map_or("–".into(), figure)));
            row.push(l.suggested_rank.map_or("–".into(), |r| r.to_string()));
            row.push(l.energy_at_rank.map_or("–".into(), |e| format!("{:.0} %", 100.0 * e)));
            row
        };
        std::iter::once(head).chain(self.layers.iter().map(row)).collect()
    }

    /// Bars for every layer and figure; layers with an error are red. An SVG file.
    pub fn svg(&self) -> String {
        let flagged = |name: &str| {
            self.findings.iter().any(|f| f.severity == Severity::Error && f.layer.as_deref() == Some(name))
        };
        let mut heads: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        heads.push("suggested r");
        let row = |l: &LayerReport| {
            let mut values: Vec<f64> = COLUMNS.iter().map(|(_, value)| value(l).unwrap_or(f64::NAN)).collect();
            values.push(l.suggested_rank.map_or(f64::NAN, |r| r as f64));
            Row { name: l.name.clone(), values, marked: flagged(&l.name) }
        };
        let title = match self.findings.len() {
            0 => "adapter: nothing wrong".to_string(),
            n => format!("adapter: {n} findings"),
        };
        columns(&title, &heads, &self.layers.iter().map(row).collect::<Vec<_>>())
    }
}

fn figure(x: f64) -> String {
    if x == 0.0 {
        "0".into()
    } else if (0.01..10_000.0).contains(&x.abs()) {
        format!("{x:.3}")
    } else {
        format!("{x:.1e}")
    }
}
