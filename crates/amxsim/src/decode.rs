//! Machine code to instructions: VEX.128.W0, map 0F38, opcodes 49, 4B and 5C (SDM volume 2, the instructions' pages).
//!
//! ```text
//! LDTILECFG   NP 49 mem      TILEZERO   F2 49 11:rrr:000    TILELOADD   F2 4B sibmem
//! TILERELEASE NP 49 C0       TDPBF16PS  F3 5C 11:rrr:bbb    TILELOADDT1 66 4B sibmem    TILESTORED F3 4B sibmem
//! ```

/// An operand in memory. Registers by their number in the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub base: Base,
    /// Register and shift.
    pub index: Option<(u8, u8)>,
    pub displacement: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Register(u8),
    /// The address behind the instruction.
    Next,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    Configure(Memory),
    Release,
    Zero(usize),
    Load(usize, Memory),
    Store(Memory, usize),
    /// Destination, left and right source.
    Multiply(usize, usize, usize),
}

/// The instruction whose bytes `at` gives one by one, and its length. Reads no byte behind it.
pub(crate) fn decode(at: impl Fn(usize) -> u8) -> Option<(Instruction, usize)> {
    if at(0) != 0xc4 {
        return None;
    }
    // R, X and B are stored inverted above the map's number; W, vvvv (inverted), L and the prefix follow.
    let (first, second) = (at(1), at(2));
    let (r, x, b) = (!first >> 7, !first >> 6 & 1, !first >> 5 & 1);
    let (map, wide, v, long, prefix) = (first & 31, second >> 7, !second >> 3 & 15, second >> 2 & 1, second & 3);
    if map != 2 || wide != 0 || long != 0 || r != 0 {
        return None;
    }
    let (opcode, modrm) = (at(3), at(4));
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let tile = usize::from(reg);
    if mode == 3 {
        let instruction = match (opcode, prefix) {
            (0x49, 0) if modrm == 0xc0 && v == 0 => Instruction::Release,
            (0x49, 3) if rm == 0 && v == 0 => Instruction::Zero(tile),
            (0x5c, 2) if v < 8 && b == 0 => Instruction::Multiply(tile, usize::from(rm), usize::from(v)),
            _ => return None,
        };
        return Some((instruction, 5));
    }
    let (memory, len) = memory(&at, mode, rm, x, b)?;
    let strided = rm == 4;
    let instruction = match (opcode, prefix) {
        (0x49, 0) if reg == 0 && v == 0 => Instruction::Configure(memory),
        (0x4b, 1 | 3) if strided && v == 0 => Instruction::Load(tile, memory),
        (0x4b, 2) if strided && v == 0 => Instruction::Store(memory, tile),
        _ => return None,
    };
    Some((instruction, len))
}

/// ModRM, SIB and displacement, from byte 4 on.
fn memory(at: &impl Fn(usize) -> u8, mode: u8, rm: u8, x: u8, b: u8) -> Option<(Memory, usize)> {
    let mut next = 5;
    let (mut base, mut index) = (Base::Register(rm | b << 3), None);
    let mut low = rm;
    if rm == 4 {
        let sib = at(next);
        next += 1;
        low = sib & 7;
        base = Base::Register(low | b << 3);
        let register = sib >> 3 & 7 | x << 3;
        index = (register != 4).then_some((register, sib >> 6));
    }
    let mut bytes = match mode {
        0 => 0,
        1 => 1,
        _ => 4,
    };
    if mode == 0 && low == 5 {
        base = if rm == 4 { Base::None } else { Base::Next };
        bytes = 4;
    }
    let displacement = match bytes {
        0 => 0,
        1 => i32::from(at(next) as i8),
        _ => i32::from_le_bytes([at(next), at(next + 1), at(next + 2), at(next + 3)]),
    };
    Some((Memory { base, index, displacement }, next + bytes))
}
