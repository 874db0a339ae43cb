//! The committed PTX belongs to the committed sources and is fit to be shipped. No CUDA toolkit is needed for this.

mod sha256;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lowrank_kernels::{ALL, Module};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Files of a folder with this ending, without it.
fn stems(of: &str, ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder(of)).unwrap();
    files.filter_map(|f| Some(f.unwrap().file_name().to_str()?.strip_suffix(ending)?.to_string())).collect()
}

/// The file's own headers, in order.
fn includes(source: &str) -> Vec<&str> {
    source.lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"')).collect()
}

#[test]
fn every_source_has_its_ptx_and_its_entry() {
    let names: BTreeSet<String> = ALL.iter().map(|m| m.name.to_string()).collect();
    assert_eq!(stems("cu", ".cu"), names, "cu/*.cu and the index of src/lib.rs differ");
    assert_eq!(stems("ptx", ".ptx"), names, "ptx/*.ptx and the index of src/lib.rs differ");
    assert_eq!(stems("ptx", ".sha256"), names, "ptx/*.sha256 and the index of src/lib.rs differ");
}

#[test]
fn ptx_was_made_of_this_source() {
    for Module { name, .. } in ALL {
        let source = std::fs::read_to_string(folder("cu").join(format!("{name}.cu"))).unwrap();
        let mut bytes = Vec::new();
        for header in includes(&source) {
            bytes.extend(std::fs::read(folder("cu").join(header)).unwrap());
        }
        bytes.extend(source.as_bytes());
        let stated = std::fs::read_to_string(folder("ptx").join(format!("{name}.sha256"))).unwrap();
        assert_eq!(sha256::hex(&bytes), stated.trim(), "{name}: run kernels/build.sh {name}");
    }
}

#[test]
fn sources_use_no_cuda_headers() {
    for file in std::fs::read_dir(folder("cu")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("#include <"), "{}", path.display());
        let header = path.extension().is_some_and(|e| e == "cuh");
        assert!(!header || includes(&text).is_empty(), "{}: headers include nothing", path.display());
    }
}

#[test]
fn ptx_is_fit_to_be_shipped() {
    for Module { name, ptx } in ALL {
        let hopper = name.ends_with(".sm90a");
        let (version, target) = if hopper { ("8.0", "sm_90a") } else { ("7.0", "sm_80") };
        assert!(ptx.contains(&format!("\n.version {version}\n")), "{name}: old drivers would refuse it");
        assert!(ptx.contains(&format!("\n.target {target}\n")), "{name}: wrong target");
        assert!(!ptx.contains(".local"), "{name}: registers are spilled, or an array is indexed at run time");
        let atomic = |word: &str| (word.starts_with("atom.") || word.starts_with("red.")) && word.contains(".f");
        let float_atomic = ptx.split_whitespace().find(|word| atomic(word));
        assert_eq!(float_atomic, None, "{name}: sums of float atomics have no fixed order");
    }
}

#[test]
fn ptxsim_knows_every_instruction() {
    for Module { name, ptx } in ALL {
        ptxsim::Module::parse(ptx).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}
