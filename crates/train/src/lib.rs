//! Fine-tuning: text → examples → batches → steps → files.
//!
//! This crate knows models, adapters and the order of a training step. It must never know of the command line or the
//! terminal: it prints nothing, and tells what happens through an [`Observer`].
//!
//! * [`Dataset`]: windows of a text or documents of a JSONL file, with a held-out part. * [`train`]: the loop.
//! * [`start_adapter`]: what training starts with. * [`evaluate`]: mean loss over counted tokens. * [`OutDir`], [`Recorder`], [`save`]: what a run leaves behind.

mod batch;
mod chart;
mod data;
mod doctor;
mod error;
mod evaluate;
mod groups;
mod many;
mod metrics;
mod observer;
mod options;
mod output;
mod plan;
mod plot;
mod sampler;
mod start;
pub mod study;
mod sweep;
mod train;

pub use batch::Batch;
pub use chart::{Block, Chart, Row, Series, columns};
pub use data::{DataOptions, Dataset, Encode, Example, Format};
pub use doctor::{
    BottleneckReport, DoctorOptions, Examination, Fault, Finding, LayerReport, Severity, WholeReport, examine,
};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate, evaluate_with};
pub use many::{Member, TOGETHER, train_many};
pub use metrics::{Recorder, StepRecord, Summary};
pub use observer::{Observer, When};
pub use options::{Length, Options};
pub use output::{OutDir, save};
pub use plan::{Family, Flops, Memory, Plan, check_ranks};
pub use plot::loss_curve;
pub use start::start_adapter;
pub use sweep::{Cell, CellResult, Sweep, sweep};
pub use train::train;
