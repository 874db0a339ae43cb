//! Ctrl-C.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::failure::{INTERRUPTED, Result};
use crate::show::complain;

/// Becomes true at the first Ctrl-C.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// A directory of half-written files, removed if the user does not want to wait.
static TEMP: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on, the first Ctrl-C sets [`STOP`] (if `politely`), the next one removes `temp` and ends the process.
pub fn install(temp: &Path, politely: bool) -> Result<()> {
    *TEMP.lock().unwrap_or_else(PoisonError::into_inner) = Some(temp.to_path_buf());
    ctrlc::set_handler(move || {
        if politely && !STOP.swap(true, Ordering::SeqCst) {
            complain("stopping after this step and saving what there is; Ctrl-C again stops at once");
            return;
        }
        if let Some(temp) = TEMP.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The process ends here; what cannot be removed stays under its temporary name.
            let _ = std::fs::remove_dir_all(temp);
        }
        std::process::exit(i32::from(INTERRUPTED));
    })?;
    Ok(())
}
