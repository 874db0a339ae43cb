//! What the suite cannot see: limits, the order of uploads, errors, and that a broken kernel shows.
//!
//! Without a driver these tests say so and pass; `LOWRANK_REQUIRE=cuda` makes that a failure. `scripts/with-ptxsim` puts
//! the interpreter in the driver's place.

use std::cell::Cell;

use lowrank_kernels::Module;

thread_local! {
    /// Takes the place of the kernel file whose name it starts with: tests break kernels to see that it shows.
    static MUTANT: Cell<Option<&'static Module>> = const { Cell::new(None) };
}

/// The file to be launched from.
pub(crate) fn mutant(module: &'static Module) -> &'static Module {
    match MUTANT.get() {
        Some(mutant) if mutant.name.split('~').next() == Some(module.name) => mutant,
        _ => module,
    }
}
