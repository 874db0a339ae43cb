//! What is wrong, and how wrong it is.

mod others;

use serde::Serialize;

use super::{Examination, LayerReport};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot be meant so.
    Error,
    /// It may be meant so.
    Warning,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A and B are both zero, so each one's gradient is zero for ever.
    Dead,
    /// A fresh adapter that changes the model before it has learned anything.
    BrokenIdentity,
    /// NaN or infinity.
    NotFinite,
    /// The loss does not depend on the layer.
    NoGradient,
    /// A trained adapter whose layer is as it started.
    NeverTrained,
    /// The branch, or one step of it, outweighs the base's weight.
    TooLarge,
    /// The adapter raises the loss of this batch over the base's.
    Harmful,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub fault: Fault,
    /// The layer; none if it is about all of them.
    pub layer: Option<String>,
    /// A sentence.
    pub message: String,
}

/// ‖sBA‖/‖W‖, or one step's change of it, that no healthy adapter has.
pub(super) const LARGEST: f64 = 1.0;
/// A step that changes a weight by more than this share of its norm.
pub(super) const LARGEST_STEP: f64 = 0.5;
/// A loss this much above the base's (nats) is told of.
const HARM: f64 = 0.01;

/// All findings, errors first.
pub(super) fn of(e: &Examination) -> Vec<Finding> {
    let mut list: Vec<Finding> = e.layers.iter().flat_map(|l| layer(l, e.fresh)).collect();
    list.extend(e.whole.iter().flat_map(|w| others::whole(w, e.fresh)));
    list.extend(e.bottlenecks.iter().flat_map(|b| others::bottleneck(b, e.fresh)));
    // One layer's NaN spreads over all gradients: those are told of only if nothing else explains them.
    let explained = list.iter().any(|f| f.fault == Fault::NotFinite);
    if !explained {
        let of_layers = e.layers.iter().map(|l| (&l.name, [l.da, l.db]));
        let of_whole = e.whole.iter().map(|w| (&w.name, [w.gradient, [None; 2]]));
        let of_bottlenecks = e.bottlenecks.iter().map(|b| (&b.name, [b.d_down, b.d_up]));
        for (name, norms) in of_layers.chain(of_whole).chain(of_bottlenecks) {
            if norms.iter().flatten().flatten().any(|v| !v.is_finite()) {
                list.push(error(Fault::NotFinite, name, "its gradient is not finite".into()));
            }
        }
        if e.loss.is_none() || e.base_loss.is_none() {
            let which = if e.base_loss.is_none() { "of the base" } else { "with the adapter" };
            let message = format!("the loss {which} is not finite");
            list.push(Finding { severity: Severity::Error, fault: Fault::NotFinite, layer: None, message });
        }
    }
    if let (false, Some(base), Some(loss)) = (e.fresh, e.base_loss, e.loss)
        && loss > base + HARM
    {
        let message = format!("the adapter raises the loss of this batch from the base's {base:.4} to {loss:.4}");
        list.push(Finding { severity: Severity::Warning, fault: Fault::Harmful, layer: None, message });
    }
    list.sort_by_key(|f| f.severity);
    list
}

fn layer(l: &LayerReport, fresh: bool) -> Vec<Finding> {
    if l.not_finite {
        return vec![error(Fault::NotFinite, &l.name, "A or B holds NaN or infinity".into())];
    }
    if l.base_not_finite {
        return vec![error(Fault::NotFinite, &l.name, "the base's weight holds NaN or infinity".into())];
    }
    if l.both_zero {
        let message = "A and B are both zero: each one's gradient is a product with the other, so neither ever moves";
        return vec![error(Fault::Dead, &l.name, message.into())];
    }
    let mut list = Vec::new();
    let ratio = l.ratio.unwrap_or(0.0);
    let gradient = |norms: [Option<f64>; 2]| norms[0];
    match (gradient(l.da), gradient(l.db)) {
        (None, None) => list.push(error(
            Fault::NoGradient,
            &l.name,
            "no gradient reaches it: the loss does not depend on it".into(),
        )),
        (da, db) if da.unwrap_or(0.0) == 0.0 && db.unwrap_or(0.0) == 0.0 => {
            list.push(error(Fault::NoGradient, &l.name, "the gradients of A and B are both exactly zero".into()));
        }
        _ => {}
    }
    if fresh && !l.product_zero {
        let message =
            format!("B A is not zero at the start: ‖sBA‖/‖W‖ = {ratio:.3}, the model does not start as the base");
        list.push(error(Fault::BrokenIdentity, &l.name, message));
    }
    if !fresh && l.product_zero {
        let message = "B A is zero: the layer is as it started, or was not part of the training";
        list.push(error(Fault::NeverTrained, &l.name, message.into()));
    }
    if !fresh && ratio > LARGEST {
        list.push(error(
            Fault::TooLarge,
            &l.name,
            format!("‖sBA‖/‖W‖ = {ratio:.3}: the branch outweighs the base's weight"),
        ));
    } else if let Some(step) = l.update_ratio.filter(|&s| s > LARGEST_STEP) {
        let message = format!(
            "one step changes sBA by {step:.3} of ‖W‖: the scale s = {} or the learning rate is far too large",
            l.scale
        );
        list.push(error(Fault::TooLarge, &l.name, message));
    }
    list
}

pub(super) fn error(fault: Fault, layer: &str, message: String) -> Finding {
    Finding { severity: Severity::Error, fault, layer: Some(layer.to_string()), message }
}
