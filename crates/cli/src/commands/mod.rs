//! One file per command: its options, and `run`.

pub mod combine;
pub mod convert;
pub mod devices;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod study;
pub mod swap;
pub mod sweep;
pub mod train;
