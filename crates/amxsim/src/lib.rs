//! AMX with bf16 on processors that lack it, for tests: a SIGILL handler that emulates tile instructions.
//!
//! * `decode`: machine code to instructions. * `state`: a thread's tiles, and what an instruction does to them.
//! * `signal`: the handler, which is all that is allowed in a signal: no allocation, no lock, no panic.
//!
//! It knows no kernel and nothing of lowrank. Semantics follow the Intel 64 and IA-32 Architectures Software Developer's
//! Manual, volume 2 (LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS).

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod decode;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod signal;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod state;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;

/// Emulates AMX in this process from now on; false where that is not possible (another processor or system).
///
/// Harmless on a processor with AMX: nothing faults there.
pub fn install() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        signal::install()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

/// How many instructions have been emulated in this process.
pub fn executed() -> u64 {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        signal::executed()
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        0
    }
}
