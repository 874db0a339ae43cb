//! The studies that compare ways to train, cut to two steps: every way is there, with the numbers it must have whatever the
//! training does.

mod common;

use common::{GO_ON, dataset, model};
use lowrank_core::DType;
use lowrank_train::study::{self, Effort, Report, language_steps};
use std::cell::Cell;

/// Two seeds search for a learning rate, the third joins in at the best one.
const EFFORT: Effort = Effort { steps: 2, batch: 2, seeds: 3 };

fn ran(study: &str) -> Report {
    let mut model = model(DType::F32);
    let data = dataset(&model, 24);
    let ticks = Cell::new(0);
    let ticked = || ticks.set(ticks.get() + 1);
    let run = if study == "family" { study::family } else { study::methods };
    let report = run(&mut model, &data, EFFORT, &ticked, &GO_ON).unwrap();
    assert_eq!(ticks.get(), language_steps(study, EFFORT));
    assert!(report.method.contains("with 2 seeds (init and data order), the best one with 3"), "{}", report.method);
    report
}

fn column(report: &Report, i: usize) -> Vec<&str> {
    report.tables[0].1[1..].iter().map(|row| row[i].as_str()).collect()
}

#[test]
fn family_has_every_member() {
    let report = ran("family");
    assert_eq!(column(&report, 0), ["LoRA", "LoRA+", "rsLoRA", "DoRA", "LoRA-FA", "PiSSA", "OLoRA", "LoRA-GA"]);
    // q, k, v, o, gate, up, down of 4 blocks at rank 8; DoRA has a magnitude a row more, LoRA-FA no A.
    let parameters: Vec<usize> = column(&report, 1).iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(parameters[0], 73_696);
    assert!(parameters[3] > parameters[0] && parameters[4] < parameters[0]);
    assert!([1, 2, 5, 6, 7].iter().all(|&i| parameters[i] == parameters[0]));
    // Plain LoRA reaches its own end.
    assert!(column(&report, 4)[0].ends_with(" to 2)"), "{:?}", column(&report, 4));
    // Every line has the extremes of its seeds around it.
    for series in &report.chart.series {
        assert_eq!((series.points.len(), series.spread.len()), (2, 2), "{}", series.name);
        for (point, spread) in series.points.iter().zip(&series.spread) {
            assert!(spread.1 < point.1 && point.1 < spread.2, "{}", series.name);
        }
    }
    assert_eq!((report.tables[1].1.len(), report.chart.series.len()), (9, 8));
}

#[test]
fn methods_are_compared_at_one_budget() {
    let report = ran("methods");
    let parameters: Vec<f64> = column(&report, 1).iter().map(|n| n.parse().unwrap()).collect();
    assert!((parameters[2] / parameters[0] - 1.0).abs() < 0.02 && parameters[3] > 9.0 * parameters[0]);
    for i in [4, 5] {
        assert!(column(&report, i).iter().all(|t| t.parse::<f64>().unwrap() > 0.0));
    }
    let merged = column(&report, 6);
    assert_eq!(merged[2], "cannot be merged");
    assert!([0, 1, 3].iter().all(|&i| merged[i].parse::<f64>().is_ok()));
}
