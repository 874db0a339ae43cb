//! The handler of SIGILL. It runs in the middle of any code: it takes no lock, allocates nothing and cannot panic.

use std::cell::UnsafeCell;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::decode::{Base, Instruction, Memory, decode};
use crate::state::{Fault, State};

thread_local! {
    // Initialised at compile time and without a destructor: reading it is an address, nothing else.
    static STATE: UnsafeCell<State> = const { UnsafeCell::new(State::new()) };
}

static EXECUTED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn executed() -> u64 {
    EXECUTED.load(Relaxed)
}

pub(crate) fn install() -> bool {
    static ONCE: Once = Once::new();
    static DONE: AtomicBool = AtomicBool::new(false);
    ONCE.call_once(|| {
        // Asked here so that the handler finds the answers cached.
        let _ = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // SAFETY: all zero is a valid sigaction; the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            DONE.store(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) == 0, Relaxed);
        }
    });
    DONE.load(Relaxed)
}

extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a ucontext to a handler with SA_SIGINFO, and nobody else has it.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if let Err(fault) = step(registers) {
        for text in ["amxsim: ", fault, "\n"] {
            // SAFETY: a string of its length; `write` is allowed in a handler.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }
        // The instruction faults again and kills the process.
        // SAFETY: `signal` is allowed in a handler.
        unsafe { libc::signal(libc::SIGILL, libc::SIG_DFL) };
    }
}

type Registers = [libc::greg_t; 23];

/// Executes the instruction at RIP and steps over it.
fn step(registers: &mut Registers) -> Result<(), Fault> {
    let start = registers[libc::REG_RIP as usize] as usize;
    // SAFETY: the processor has just fetched the instruction from there; no byte behind it is read.
    let Some((instruction, len)) = decode(|i| unsafe { *((start + i) as *const u8) }) else {
        return Err("an illegal instruction that is not emulated");
    };
    // SAFETY: this thread's own, and a handler of SIGILL does not interrupt itself.
    let state = STATE.with(|state| unsafe { &mut *state.get() });
    let address = |m: &Memory| address(registers, m, start + len);
    match instruction {
        Instruction::Configure(memory) => {
            let (start, index) = address(&memory);
            // SAFETY: what the program's instruction would read.
            state.configure(unsafe { &*(start.wrapping_add_signed(index) as *const [u8; 64]) })?
        }
        Instruction::Release => state.release(),
        Instruction::Zero(tile) => state.zero(tile)?,
        Instruction::Load(tile, memory) => {
            let (start, stride) = address(&memory);
            // SAFETY: as above.
            unsafe { state.load(tile, start as *const u8, stride)? }
        }
        Instruction::Store(memory, tile) => {
            let (start, stride) = address(&memory);
            // SAFETY: what the program's instruction would write.
            unsafe { state.store(tile, start as *mut u8, stride)? }
        }
        Instruction::Multiply(c, a, b) => state.multiply(c, a, b)?,
    }
    registers[libc::REG_RIP as usize] = (start + len) as i64;
    EXECUTED.fetch_add(1, Relaxed);
    Ok(())
}

/// The address without its index, and the scaled index: rows of a tile are that far apart.
fn address(registers: &Registers, memory: &Memory, next: usize) -> (usize, isize) {
    let register = |number: u8| {
        let names = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        registers[names[usize::from(number & 15)] as usize] as usize
    };
    let base = match memory.base {
        Base::Register(number) => register(number),
        Base::Next => next,
        Base::None => 0,
    };
    let stride = memory.index.map_or(0, |(number, shift)| (register(number) as isize) << shift);
    (base.wrapping_add_signed(memory.displacement as isize), stride)
}
