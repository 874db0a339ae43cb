//! The `ptxsim` command: run, check, count, list, files in and out, exit status.

use std::process::{Command, Output};

fn ptxsim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptxsim")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn text(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

#[test]
fn runs_a_kernel_on_files() {
    let dir = std::env::temp_dir().join(format!("ptxsim-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (a, b) = (dir.join("a.bin"), dir.join("b.bin"));
    std::fs::write(&a, (0..256).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let o = ptxsim(&[
        "check",
        "tests/ptx/faults0.ptx",
        "--entry",
        "reverse",
        "--grid",
        "1",
        "--block",
        "256",
        "--arg",
        &format!("f32:{}", a.display()),
        "--arg",
        "f32:uninit*256",
        "--dump",
        "1:3",
        "--out",
        &format!("1:{}", b.display()),
    ]);
    assert!(o.status.success(), "{o:?}");
    assert!(text(&o).contains("1: 255 254 253") && text(&o).contains("clean"), "{o:?}");
    let bytes = std::fs::read(&b).unwrap();
    assert_eq!(bytes[..4], 255f32.to_le_bytes());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn check_fails_on_a_fault_and_run_does_not_look() {
    // Two blocks write one cell.
    let args = [
        "tests/ptx/faults8.ptx",
        "--entry",
        "stencil",
        "--grid",
        "8",
        "--block",
        "64",
        "--arg",
        "f32:ramp*512",
        "--arg",
        "f32:zeros*512",
    ];
    let o = ptxsim(&[&["check"], &args[..]].concat());
    assert_eq!(o.status.code(), Some(1));
    assert!(text(&o).contains("RaceBetweenCtas: kernel stencil, line"), "{o:?}");
    assert!(ptxsim(&[&["run"], &args[..]].concat()).status.success());
}

#[test]
fn counts_are_deterministic() {
    let args = [
        "count",
        "tests/ptx/warp.compute_80.ptx",
        "--entry",
        "k_transpose",
        "--grid",
        "2,2",
        "--block",
        "32,8",
        "--arg",
        "f32:ramp*4096",
        "--arg",
        "f32:zeros*4096",
        "--arg",
        "i32:64",
    ];
    let (a, b) = (ptxsim(&args), ptxsim(&args));
    assert_eq!(text(&a), text(&b));
    // 64 × 64 floats in and out by full warps: 128 accesses of 4 sectors each way; padding avoids every conflict.
    assert!(text(&a).contains("global: 256 accesses, 1024 sectors, 256 lines"), "{}", text(&a));
    assert!(text(&a).contains("shared: 256 accesses, 0 bank conflicts"), "{}", text(&a));
}

#[test]
fn mistakes_are_explained() {
    for (args, want) in [
        (vec![], "usage"),
        (vec!["run", "nothing.ptx"], "nothing.ptx"),
        (vec!["run", "tests/ptx/faults0.ptx", "--entry", "zzz"], "no kernel zzz"),
        (vec!["run", "tests/ptx/faults0.ptx", "--grid", "1,2,3,4"], "more than three"),
        (vec!["run", "tests/ptx/faults0.ptx", "--frob", "1"], "unknown option"),
        (vec!["run", "Cargo.toml"], "line 1"),
    ] {
        let o = ptxsim(&args);
        assert_eq!(o.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&o.stderr).contains(want), "{args:?}: {o:?}");
    }
    assert!(text(&ptxsim(&["list", "tests/ptx/faults0.ptx"])).contains("pipeline: 3 parameters"));
}
