//! A stand-in for `libcuda.so` that runs kernels on [`ptxsim`], so that unmodified CUDA host code can be tested on a
//! machine without a GPU.
//!
//! The functions have NVIDIA's names, signatures and meaning; see the CUDA driver API. It answers only if the
//! environment says `LOWRANK_PTXSIM=1`, calls its device "ptxsim (simulated)" and is built under a name that no
//! program looks for; `scripts/link.sh` makes a folder with the names that programs do look for.
//!
//! Work is done at once, in the order of the calls. What a kernel does wrong is printed, and the launch and every
//! later call return an error, as after a fault on a real device. `LOWRANK_PTXSIM_RACES=0` turns race checks off. The
//! device is one of compute capability 9.0, with `LOWRANK_PTXSIM_CAPABILITY=8.0` one of 8.0.
#![allow(non_snake_case)]

mod abi;
mod codes;
mod context;
mod device;
mod func;
mod graph;
mod memory;
mod state;
mod stream;
mod tensor;
