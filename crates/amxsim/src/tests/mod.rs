//! Against what the assembler emits, and against plain loops.

mod encodings;
mod tiles;
