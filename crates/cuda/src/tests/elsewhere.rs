//! Other machines than this one: what the stand-in driver says of itself when the environment tells it to. A process loads
//! its driver once, so each is looked at in another one. A GPU's own driver listens to no variable: nothing is tested there.

use super::*;

/// Runs an ignored test of this file with the stand-in so changed; false where another driver, or none, is here.
fn run(name: &str, variable: &str, value: &str) -> bool {
    if !device().is_some_and(|cuda| cuda.device().simulated) {
        eprintln!("skipped: not on the stand-in driver");
        return false;
    }
    let name = format!("tests::elsewhere::{name}");
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &name])
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    true
}

#[test]
fn a_gpu_that_is_too_old() {
    run("inner_old_gpu", "LOWRANK_PTXSIM_CAPABILITY", "7.5");
}

#[test]
#[ignore = "started by a_gpu_that_is_too_old"]
fn inner_old_gpu() {
    // It is listed, and refused where it is opened.
    let listed = crate::devices().unwrap();
    assert_eq!(listed[0].compute_capability, (7, 5));
    let e = Cuda::new(0).err().unwrap().to_string();
    assert!(e.contains("cuda:0") && e.contains("7.5 is too old") && e.contains("8.0 (Ampere)"), "{e}");
    assert!(e.contains("--device cpu") && !e.contains('\n'), "{e}");
}

#[test]
fn a_driver_that_is_too_old() {
    run("inner_old_driver", "LOWRANK_PTXSIM_DRIVER", "11.1");
    run("inner_driver_before_the_gpu", "LOWRANK_PTXSIM_DRIVER", "11.4");
}

#[test]
#[ignore = "started by a_driver_that_is_too_old"]
fn inner_old_driver() {
    for e in [crate::devices().err(), Cuda::new(0).err()] {
        let e = e.unwrap().to_string();
        assert!(e.contains("driver is too old") && e.contains("CUDA 11.1") && e.contains("CUDA 11.2"), "{e}");
        assert!(!e.contains('\n'), "{e}");
    }
}

#[test]
#[ignore = "started by a_driver_that_is_too_old"]
fn inner_driver_before_the_gpu() {
    let e = Cuda::new(0).err().unwrap().to_string();
    assert!(e.contains("CUDA 11.4") && e.contains("too old for this GPU"), "{e}");
}

/// A code that the bindings have no name for, nor the driver.
#[test]
fn a_code_that_nobody_knows() {
    run("inner_unknown_code", "LOWRANK_PTXSIM_REFUSAL", "4711");
}

#[test]
#[ignore = "started by a_code_that_nobody_knows"]
fn inner_unknown_code() {
    let e = Cuda::new(0).err().unwrap().to_string();
    assert!(e.contains("does not start: error 4711 of the driver") && !e.contains('\n'), "{e}");
}

#[test]
fn memory_of_a_step_that_runs_short() {
    run("inner_short_step", "LOWRANK_PTXSIM_MEMORY", "64");
}

/// A step leaves memory to its arena, others take the rest: the next step's small results, and its large ones, are made from
/// what the arena does not use, though work is held back that used it.
#[test]
#[ignore = "started by memory_of_a_step_that_runs_short"]
fn inner_short_step() {
    let cuda = Cuda::new(0).unwrap();
    let ones = Held::of(&cuda, &[1.0f32; 100]);
    let large = |mebi: usize| Held::empty(&cuda, DType::F32, mebi << 18);
    let mut result = None;
    cuda.repeated(&mut || drop(large(40))).unwrap();
    let rest = (large(23), Held::empty(&cuda, DType::F32, 900 << 8));
    cuda.repeated(&mut || {
        // Held back, in the arena's chunk, and dropped before it is started.
        let mut dropped = Held::empty(&cuda, DType::F32, 10_000);
        cuda.fill(2.0, dropped.out()).unwrap();
        drop(dropped);
        let mut small = Held::empty(&cuda, DType::F32, 100);
        cuda.map(Map::Affine(3.0, 1.0), ones.view(), small.out().set()).unwrap();
        // A chunk of another size.
        let mut other = large(30);
        cuda.fill(1.0, other.out()).unwrap();
        result = Some(small);
    })
    .unwrap();
    assert_eq!(result.unwrap().read::<f32>(&cuda), [4.0; 100]);
    drop(rest);
    // What is really not there is an error still, within a step too.
    let mut e = None;
    cuda.repeated(&mut || e = cuda.alloc(70 << 20).err()).unwrap();
    assert!(matches!(e, Some(Error::OutOfMemory { .. })), "{e:?}");
}
