//! ptxsim runs and checks NVIDIA PTX on a CPU.
//!
//! The crate knows PTX text, device memory and what a GPU would do with both; it knows nothing of CUDA, drivers or
//! any program that uses it. The life of a launch: [`Module::parse`] (text → tokens → syntax → decoded instructions),
//! [`Memory`] (allocations), [`launch`] (waves of CTAs, each interpreted warp by warp), [`Report`].
//!
//! ```
//! use ptxsim::{Arg, Config, Memory, Module, launch};
//! let ptx = ".version 7.0 .target sm_80 .address_size 64
//!     .visible .entry twice(.param .u64 p) { .reg .b64 %rd<3>; .reg .b32 %r<3>; .reg .f32 %f<3>;
//!     ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
//!     ld.global.f32 %f1, [%rd1]; add.f32 %f2, %f1, %f1; st.global.f32 [%rd1], %f2; ret; }";
//! let module = Module::parse(ptx)?;
//! let mut mem = Memory::new();
//! let p = mem.upload(&[1.0f32, 2.0, 3.0]);
//! let report = launch(&module, "twice", &mut mem, &Config::new([1, 1, 1], [3, 1, 1]), &[Arg::Ptr(p)])?;
//! assert!(report.is_clean());
//! assert_eq!(mem.download::<f32>(p, 3)?, [2.0, 4.0, 6.0]);
//! # Ok::<(), ptxsim::Error>(())
//! ```

// Loops over lanes and fragments index several arrays in step; iterators would hide that.
#![allow(clippy::needless_range_loop)]

mod alu;
mod ast;
mod error;
mod exec;
mod ir;
mod launch;
mod lex;
mod lower;
mod mem;
mod merge;
mod module;
mod num;
mod parse;
mod parse_body;
mod parse_var;
mod report;
mod schedule;
mod types;

pub use error::{Error, ErrorKind};
pub use exec::{Swizzle, TensorMap};
pub use launch::{Arg, Config, launch, launch_raw};
pub use mem::device::{Element, Memory};
pub use module::{KernelInfo, Module};
pub use report::{Counters, Finding, FindingKind, Report};
