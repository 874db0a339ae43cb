//! Whether operations record themselves.

use std::cell::Cell;

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording: nothing is kept for backward, results do not require a gradient.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ENABLED.set(self.0);
        }
    }
    let _restore = Restore(ENABLED.replace(false));
    f()
}

pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

/// Whether operations on this thread record themselves now: false inside [`no_grad`]. What acts in training only
/// (dropout) asks this.
pub fn is_grad_enabled() -> bool {
    enabled()
}
