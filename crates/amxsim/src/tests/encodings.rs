//! Every instruction as the assembler writes it is read back.

use std::arch::asm;

use crate::decode::{Base, Instruction, Memory, decode};

/// Decodes what the assembler makes of a text, without executing it; checks the length.
macro_rules! assembled {
    ($text:literal) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: takes two addresses and jumps over the instruction.
        unsafe {
            asm!("lea {s}, [rip + 2f]", "lea {e}, [rip + 3f]", "jmp 3f", "2:", $text, "3:",
                s = out(reg) start, e = out(reg) end, options(nostack));
        }
        let len = end as usize - start as usize;
        let read = decode(|i| {
            assert!(i < len, "reads behind {}", $text);
            // SAFETY: inside the instruction.
            unsafe { *start.add(i) }
        });
        read.map(|(instruction, n)| {
            assert_eq!(n, len, "{}", $text);
            instruction
        })
    }};
}

fn at(base: u8, displacement: i32) -> Memory {
    Memory { base: Base::Register(base), index: None, displacement }
}

fn by(base: u8, index: u8, shift: u8, displacement: i32) -> Memory {
    Memory { base: Base::Register(base), index: Some((index, shift)), displacement }
}

#[test]
fn memory_operands() {
    use Instruction::*;
    // rax 0, rcx 1, rdx 2, rbx 3, rsp 4, rbp 5, rsi 6, rdi 7.
    assert_eq!(assembled!("ldtilecfg [rax]"), Some(Configure(at(0, 0))));
    assert_eq!(assembled!("ldtilecfg [rsp]"), Some(Configure(at(4, 0))));
    assert_eq!(assembled!("ldtilecfg [rbp]"), Some(Configure(at(5, 0))));
    assert_eq!(assembled!("ldtilecfg [r12 + 64]"), Some(Configure(at(12, 64))));
    assert_eq!(assembled!("ldtilecfg [r13]"), Some(Configure(at(13, 0))));
    assert_eq!(assembled!("ldtilecfg [rdi - 1000]"), Some(Configure(at(7, -1000))));
    assert_eq!(assembled!("ldtilecfg [rdi + 2*r9 + 1000]"), Some(Configure(by(7, 9, 1, 1000))));
    let next = Memory { base: Base::Next, index: None, displacement: 64 };
    assert_eq!(assembled!("ldtilecfg [rip + 64]"), Some(Configure(next)));
    assert_eq!(assembled!("tileloadd tmm0, [rax + rcx*1]"), Some(Load(0, by(0, 1, 0, 0))));
    assert_eq!(assembled!("tileloadd tmm7, [r8 + r9*1 + 64]"), Some(Load(7, by(8, 9, 0, 64))));
    assert_eq!(assembled!("tileloadd tmm5, [rsi + r12*8 + 33792]"), Some(Load(5, by(6, 12, 3, 33792))));
    assert_eq!(assembled!("tileloadd tmm3, [r13 + rdx*1]"), Some(Load(3, by(13, 2, 0, 0))));
    assert_eq!(assembled!("tileloadd tmm3, [r12]"), Some(Load(3, at(12, 0))));
    let absolute = Memory { base: Base::None, index: Some((1, 1)), displacement: 4096 };
    assert_eq!(assembled!("tileloadd tmm1, [rcx*2 + 4096]"), Some(Load(1, absolute)));
    assert_eq!(assembled!("tileloaddt1 tmm6, [r15 + r14*1 - 128]"), Some(Load(6, by(15, 14, 0, -128))));
    assert_eq!(assembled!("tilestored [rbx + rax*4 + 127], tmm4"), Some(Store(by(3, 0, 2, 127), 4)));
    assert_eq!(assembled!("tilestored [rbp + r11*1 + 128], tmm2"), Some(Store(by(5, 11, 0, 128), 2)));
}

#[test]
fn registers() {
    use Instruction::*;
    assert_eq!(assembled!("tilerelease"), Some(Release));
    assert_eq!(assembled!("tilezero tmm0"), Some(Zero(0)));
    assert_eq!(assembled!("tilezero tmm7"), Some(Zero(7)));
    assert_eq!(assembled!("tdpbf16ps tmm0, tmm4, tmm6"), Some(Multiply(0, 4, 6)));
    assert_eq!(assembled!("tdpbf16ps tmm3, tmm5, tmm7"), Some(Multiply(3, 5, 7)));
    assert_eq!(assembled!("tdpbf16ps tmm7, tmm1, tmm0"), Some(Multiply(7, 1, 0)));
}

#[test]
fn what_is_something_else_is_not_taken_for_it() {
    assert_eq!(assembled!("ud2"), None);
    assert_eq!(assembled!("sttilecfg [rax]"), None);
    assert_eq!(assembled!("tdpbssd tmm0, tmm1, tmm2"), None);
    assert_eq!(assembled!("vpermilps ymm0, ymm1, ymm2"), None);
    assert_eq!(assembled!("vfmadd231ps xmm0, xmm1, xmm2"), None);
    assert_eq!(assembled!("vpdpbusd xmm0, xmm1, xmm2"), None);
}
