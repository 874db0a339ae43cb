//! Which instructions this program uses: found out once at run time, or forced by `LOWRANK_CPU`.
//!
//! The choice goes by CPUID's features, never by a model number (hypervisors hide it).

use std::fmt;

use lowrank_backend::{Error, Result};

use crate::NAME;

/// The environment variable that forces a path.
const VARIABLE: &str = "LOWRANK_CPU";

/// A set of kernels. Results are the same bits on every machine that runs the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Plain loops, vectorised by the compiler as far as its target allows.
    Portable,
    /// 128-bit vectors of aarch64.
    Neon,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
    /// The same, with products of pairs of bf16 for [`Precision::Bf16`](lowrank_backend::Precision::Bf16).
    Avx512Bf16,
    /// The same, with tiles of bf16 for [`Precision::Bf16`](lowrank_backend::Precision::Bf16) and
    /// [`Precision::Bf16x3`](lowrank_backend::Precision::Bf16x3).
    Amx,
}

impl Path {
    /// All of them, the plainest first.
    pub const ALL: [Path; 6] = [Path::Portable, Path::Neon, Path::Avx2, Path::Avx512, Path::Avx512Bf16, Path::Amx];

    /// The name that `LOWRANK_CPU` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            Path::Neon => "neon",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::Avx512Bf16 => "avx512bf16",
            Path::Amx => "amx",
        }
    }

    /// Whether this processor has the instructions.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = || {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            };
            let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match self {
                Path::Portable => true,
                Path::Neon => false,
                Path::Avx2 => avx2(),
                Path::Avx512 => avx2() && avx512(),
                Path::Avx512Bf16 => avx2() && avx512() && is_x86_feature_detected!("avx512bf16"),
                Path::Amx => Path::Avx512Bf16.available() && crate::amx::available(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        match self {
            Path::Portable => true,
            Path::Neon => cfg!(target_arch = "aarch64"),
            _ => false,
        }
    }

    /// The fastest one that this processor has.
    pub fn best() -> Path {
        Path::ALL.into_iter().rev().find(|path| path.available()).unwrap_or(Path::Portable)
    }

    /// The one that `LOWRANK_CPU` names, or the fastest. A name that is unknown or a path that this processor lacks is an
    /// error.
    pub fn from_env() -> Result<Path> {
        match std::env::var_os(VARIABLE) {
            None => Ok(Path::best()),
            Some(name) => Path::from_name(&name.to_string_lossy()),
        }
    }

    /// A path by its name, if this processor has it.
    pub fn from_name(name: &str) -> Result<Path> {
        let error = |detail: String| Err(Error::Device { device: NAME.to_string(), detail });
        match Path::ALL.into_iter().find(|path| path.name() == name) {
            Some(path) if path.available() => Ok(path),
            Some(path) => error(format!("{VARIABLE}={path} is not available on this processor")),
            None => {
                let names: Vec<_> = Path::ALL.into_iter().map(Path::name).collect();
                error(format!("{VARIABLE}={name} is unknown; write {} or leave it unset", names.join(", ")))
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The path of vectorised loops, which are compiled once per width and chosen for the whole program. A wrong
/// `LOWRANK_CPU` is reported where the device is opened, not here.
#[cfg(target_arch = "x86_64")]
pub(crate) fn loops() -> Path {
    use std::sync::OnceLock;
    static LOOPS: OnceLock<Path> = OnceLock::new();
    *LOOPS.get_or_init(|| Path::from_env().unwrap_or_else(|_| Path::best()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_paths_or_to_clear_errors() {
        crate::tests::emulate();
        assert_eq!(Path::from_name("portable").unwrap(), Path::Portable);
        assert!(Path::best().available());
        for path in Path::ALL {
            match Path::from_name(path.name()) {
                Ok(found) => assert!(found == path && path.available()),
                Err(error) => {
                    assert!(!path.available());
                    assert!(error.to_string().contains("is not available on this processor"), "{error}");
                }
            }
        }
        assert!(Path::from_name("AVX2").unwrap_err().to_string().contains("is unknown"));
    }
}
