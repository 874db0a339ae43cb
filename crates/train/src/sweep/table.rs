//! A sweep for people.

use super::{CellResult, Sweep};
use crate::{Chart, Series};

impl Sweep {
    /// One row a rank and init, one column a learning rate; the lowest loss is marked. The first row is the head.
    pub fn table(&self) -> Vec<Vec<String>> {
        let (rows, lrs) = (self.rows(), self.lrs());
        let mut head = vec!["held-out loss".to_string()];
        head.extend(lrs.iter().map(|lr| format!("lr {lr}")));
        let mut table = vec![head];
        let best = self.best().map(|b| b as *const CellResult);
        for (rank, init) in rows {
            let mut row = vec![format!("r {rank}, {init}")];
            for &lr in &lrs {
                let cell = self.cells.iter().find(|c| c.rank == rank && c.init == init && c.lr == lr);
                row.push(match cell {
                    None => String::new(),
                    Some(c) if !c.loss.is_finite() => "diverged".into(),
                    Some(c) if Some(c as *const CellResult) == best => format!("{:.4} *", c.loss),
                    Some(c) => format!("{:.4}", c.loss),
                });
            }
            table.push(row);
        }
        table
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        markdown(&self.table())
    }

    /// Held-out loss over the learning rate, a line for every rank and init; with one learning rate over the ranks.
    pub(super) fn chart(&self) -> Chart {
        let (rows, by_rank) = (self.rows(), self.lrs().len() == 1);
        let x = if by_rank { "rank" } else { "learning rate" };
        let mut series: Vec<Series> = Vec::new();
        for (rank, init) in rows {
            let name = if by_rank { init.clone() } else { format!("r {rank}, {init}") };
            let cells = self.cells.iter().filter(|c| c.rank == rank && c.init == init);
            let points = cells.map(|c| (if by_rank { c.rank as f64 } else { c.lr }, c.loss));
            match series.iter_mut().find(|s| s.name == name) {
                Some(s) => s.points.extend(points),
                None => series.push(Series { name, points: points.collect(), spread: Vec::new() }),
            }
        }
        for s in &mut series {
            s.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        let y = "held-out loss (nats a token)".into();
        Chart { title: "sweep".into(), x: x.into(), y, log_x: true, series }
    }

    fn rows(&self) -> Vec<(usize, String)> {
        unique(self.cells.iter().map(|c| (c.rank, c.init.clone())))
    }

    fn lrs(&self) -> Vec<f64> {
        let mut lrs = unique(self.cells.iter().map(|c| c.lr));
        lrs.sort_by(f64::total_cmp);
        lrs
    }
}

fn unique<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut list = Vec::new();
    for item in items {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    list
}

/// A table whose first row is the head, as Markdown.
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
    let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
    let Some((head, body)) = rows.split_first() else { return String::new() };
    let rule: Vec<String> = (0..head.len()).map(|i| if i == 0 { "---".into() } else { "---:".into() }).collect();
    let mut text = line(head) + &line(&rule);
    text.extend(body.iter().map(|row| line(row)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(lr: f64, rank: usize, loss: f64) -> CellResult {
        CellResult {
            lr,
            rank,
            alpha: 16.0,
            init: "default".into(),
            seed: 0,
            trainable_params: 1,
            loss_before: 5.0,
            loss,
            hash: String::new(),
            curve: vec![1.0],
            error: None,
        }
    }

    #[test]
    fn a_table_of_rows_and_columns() {
        let cells = vec![cell(0.01, 4, f64::NAN), cell(0.001, 4, 4.25), cell(0.01, 8, 4.0), cell(0.001, 8, 4.5)];
        let s = Sweep { base_loss: 5.0, seconds: 1.0, steps: 4, cells };
        let want = [
            ["held-out loss", "lr 0.001", "lr 0.01"],
            ["r 4, default", "4.2500", "diverged"],
            ["r 8, default", "4.5000", "4.0000 *"],
        ];
        assert_eq!(s.table(), want);
        assert!(s.markdown().starts_with("| held-out loss | lr 0.001 | lr 0.01 |\n| --- | ---: | ---: |\n"));
        assert_eq!(s.chart().series.len(), 2);
        assert_eq!(s.chart().series[1].points, [(0.001, 4.5), (0.01, 4.0)]);
        assert!(serde_json::to_string(&s).unwrap().contains("\"loss\":null"));
    }
}
