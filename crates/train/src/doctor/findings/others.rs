//! Faults of what is no pair.

use super::super::{BottleneckReport, WholeReport};
use super::{Fault, Finding, LARGEST, LARGEST_STEP, error};

/// ‖W_up W_down‖/√n of a bottleneck that still starts near the base. Houlsby's start, deviation 0.01 in all elements, has
/// √(nr)/10⁴: 0.15 with 8192 outputs and a width of 256.
const NEAR: f64 = 0.3;

pub(super) fn whole(w: &WholeReport, fresh: bool) -> Vec<Finding> {
    let found = |fault: Fault, message: String| error(fault, &w.name, message);
    if w.not_finite {
        return vec![found(Fault::NotFinite, "holds NaN or infinity".into())];
    }
    if w.base_not_finite {
        return vec![found(Fault::NotFinite, "the base's own values hold NaN or infinity".into())];
    }
    let mut list = Vec::new();
    match w.gradient[0] {
        None => {
            list.push(found(Fault::NoGradient, "no gradient reaches it: the loss does not depend on it".to_string()))
        }
        Some(0.0) => list.push(found(Fault::NoGradient, "its gradient is exactly zero".into())),
        Some(_) => {}
    }
    let ratio = w.ratio.unwrap_or(0.0);
    if fresh && !w.unchanged {
        let message = format!("is not the base's: ‖W′ − W‖/‖W‖ = {ratio:.3}, the model does not start as the base");
        list.push(found(Fault::BrokenIdentity, message));
    }
    if !fresh && w.unchanged {
        list.push(found(Fault::NeverTrained, "is the base's to the bit: it was not part of the training".into()));
    }
    if !fresh && ratio > LARGEST {
        let message = format!("‖W′ − W‖/‖W‖ = {ratio:.3}: the change outweighs the base's weight");
        list.push(found(Fault::TooLarge, message));
    } else if let Some(step) = w.update_ratio.filter(|&s| s > LARGEST_STEP) {
        let message = format!("one step changes it by {step:.3} of ‖W‖: the learning rate is far too large");
        list.push(found(Fault::TooLarge, message));
    }
    list
}

pub(super) fn bottleneck(b: &BottleneckReport, fresh: bool) -> Vec<Finding> {
    let found = |fault: Fault, message: String| error(fault, &b.name, message);
    if b.not_finite {
        return vec![found(Fault::NotFinite, "its bottleneck holds NaN or infinity".into())];
    }
    if b.dead {
        let message = "W_up, W_down and b_d are zero: the gradient of each is a product with another, so of the whole \
                       bottleneck only b_u ever moves";
        return vec![found(Fault::Dead, message.into())];
    }
    let mut list = Vec::new();
    match (b.d_down[0], b.d_up[0]) {
        (None, None) => list.push(found(
            Fault::NoGradient,
            "no gradient reaches its bottleneck: the loss does not depend on it".to_string(),
        )),
        (down, up) if down.unwrap_or(0.0) == 0.0 && up.unwrap_or(0.0) == 0.0 => {
            list.push(found(Fault::NoGradient, "the gradients of its bottleneck are exactly zero".into()));
        }
        _ => {}
    }
    let ratio = b.ratio.unwrap_or(0.0);
    if fresh && ratio > NEAR {
        let message = format!("‖W_up W_down‖/√n = {ratio:.3} at the start: the model does not start near the base");
        list.push(found(Fault::BrokenIdentity, message));
    }
    if !fresh && b.adds_nothing {
        let message = "W_up and b_u are zero: the layer is as without its bottleneck, or was not part of the training";
        list.push(found(Fault::NeverTrained, message.into()));
    }
    if !fresh && ratio > LARGEST {
        let message = format!("‖W_up W_down‖/√n = {ratio:.3}: the bottleneck outweighs what passes by it");
        list.push(found(Fault::TooLarge, message));
    } else if let Some(step) = b.update_ratio.filter(|&s| s > LARGEST_STEP) {
        let message = format!("one step changes ‖W_up W_down‖/√n by {step:.3}: the learning rate is far too large");
        list.push(found(Fault::TooLarge, message));
    }
    list
}
