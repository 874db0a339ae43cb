//! Whether this process may use AMX: the processor has tiles of bf16 and the system lets this process keep state in them.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static ASSUMED: AtomicBool = AtomicBool::new(false);

/// Takes the tiles for present from now on; for tests, where an emulator stands behind the instructions.
///
/// # Safety
/// Every thread of this process can execute AMX's bf16 instructions.
pub unsafe fn assume() {
    ASSUMED.store(true, Relaxed);
}

/// Asks once.
pub(crate) fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    ASSUMED.load(Relaxed) || *ANSWER.get_or_init(|| in_cpuid() && permitted())
}

/// CPUID 7.0: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE.
fn in_cpuid() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Linux hands out the tiles' state on request, to all threads of a process: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
/// It refuses where the system does not keep that state.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes numbers and writes no memory.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// Other systems have other ways, none of them tested.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
