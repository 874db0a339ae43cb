//! Optimisers, gradient clipping and learning-rate schedules.
//!
//! A step never waits for the device: learning rates and bias corrections are uploaded, and the gradient norm, the clip
//! factor and the update stay there. Weight decay is decoupled from the gradient.

mod adamw;
mod param;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamWOptions};
pub use param::Group;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdOptions};
