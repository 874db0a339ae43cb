//! An examination as tables and as a picture.

use super::{BottleneckReport, Examination, LayerReport, Severity, WholeReport};
use crate::chart::{Block, Row, columns};

/// Head and value of the columns that both show.
type Column<T> = (&'static str, fn(&T) -> Option<f64>);

const PAIRS: [Column<LayerReport>; 9] = [
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

const WHOLE: [Column<WholeReport>; 5] = [
    ("‖dW‖ step 0", |w| w.gradient[0]),
    ("‖dW‖ step 1", |w| w.gradient[1]),
    ("‖W′−W‖/‖W‖", |w| w.ratio),
    ("step/‖W‖", |w| w.update_ratio),
    ("stable rank", |w| w.stable_rank),
];

const BOTTLENECKS: [Column<BottleneckReport>; 7] = [
    ("‖d down‖ step 0", |b| b.d_down[0]),
    ("‖d up‖ step 0", |b| b.d_up[0]),
    ("‖d down‖ step 1", |b| b.d_down[1]),
    ("‖d up‖ step 1", |b| b.d_up[1]),
    ("‖up·down‖/√n", |b| b.ratio),
    ("step", |b| b.update_ratio),
    ("stable rank", |b| b.stable_rank),
];

impl Examination {
    /// Tables of what there is: pairs, whole tensors, bottlenecks; of each the first row is the head. Stable rank and
    /// scales are those after the step.
    pub fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let mut tables = Vec::new();
        if !self.layers.is_empty() {
            let last = |l: &LayerReport| {
                let rank = l.suggested_rank.map_or("–".into(), |r| r.to_string());
                vec![rank, l.energy_at_rank.map_or("–".into(), |e| format!("{:.0} %", 100.0 * e))]
            };
            let first = |l: &LayerReport| vec![l.name.clone(), l.rank.to_string()];
            tables.push(table(&["layer", "r"], &["suggested r", "share at r"], &PAIRS, &self.layers, first, last));
        }
        if !self.whole.is_empty() {
            let last = |w: &WholeReport| vec![w.suggested_rank.map_or("–".into(), |r| r.to_string())];
            let first = |w: &WholeReport| vec![w.name.clone()];
            tables.push(table(&["trained whole"], &["r for a pair"], &WHOLE, &self.whole, first, last));
        }
        if !self.bottlenecks.is_empty() {
            let first = |b: &BottleneckReport| vec![b.name.clone(), b.width.to_string()];
            tables.push(table(&["bottleneck", "r"], &[], &BOTTLENECKS, &self.bottlenecks, first, |_| Vec::new()));
        }
        tables
    }

    /// Bars for every layer and figure; layers with an error are red. An SVG file.
    pub fn svg(&self) -> String {
        let rank = |r: Option<usize>| r.map_or(f64::NAN, |r| r as f64);
        let blocks = [
            self.block(&PAIRS, &self.layers, |l| &l.name, Some(("suggested r", &|l| rank(l.suggested_rank)))),
            self.block(&WHOLE, &self.whole, |w| &w.name, Some(("r for a pair", &|w| rank(w.suggested_rank)))),
            self.block(&BOTTLENECKS, &self.bottlenecks, |b| &b.name, None),
        ];
        let title = match self.findings.len() {
            0 => "adapter: nothing wrong".to_string(),
            n => format!("adapter: {n} findings"),
        };
        columns(&title, &blocks.into_iter().filter(|b| !b.rows.is_empty()).collect::<Vec<_>>())
    }

    fn block<T>(&self, shown: &[Column<T>], list: &[T], name: fn(&T) -> &String, last: Option<Last<'_, T>>) -> Block {
        let flagged = |name: &str| {
            self.findings.iter().any(|f| f.severity == Severity::Error && f.layer.as_deref() == Some(name))
        };
        let row = |item: &T| {
            let mut values: Vec<f64> = shown.iter().map(|(_, value)| value(item).unwrap_or(f64::NAN)).collect();
            values.extend(last.iter().map(|(_, value)| value(item)));
            Row { name: name(item).clone(), values, marked: flagged(name(item)) }
        };
        let mut heads: Vec<&'static str> = shown.iter().map(|(head, _)| *head).collect();
        heads.extend(last.iter().map(|(head, _)| *head));
        Block { heads, rows: list.iter().map(row).collect() }
    }
}

/// A last column of whole numbers.
type Last<'a, T> = (&'static str, &'a dyn Fn(&T) -> f64);

fn table<T>(
    before: &[&str],
    behind: &[&str],
    shown: &[Column<T>],
    list: &[T],
    first: impl Fn(&T) -> Vec<String>,
    last: impl Fn(&T) -> Vec<String>,
) -> Vec<Vec<String>> {
    let heads = before.iter().copied().chain(shown.iter().map(|(head, _)| *head)).chain(behind.iter().copied());
    let row = |item: &T| {
        let mut row = first(item);
        row.extend(shown.iter().map(|(_, value)| value(item).map_or("–".into(), figure)));
        row.extend(last(item));
        row
    };
    std::iter::once(heads.map(String::from).collect()).chain(list.iter().map(row)).collect()
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
