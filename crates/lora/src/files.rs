//! Files are written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// The whole content of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| io_error(path, e))
}

/// Writes a temporary file beside `path`, flushes it to the disk and renames it over `path`. If anything fails, `path`
/// is as it was, the temporary file is gone, and the error names `path` and the cause.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

fn write_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let temporary = beside(path).map_err(|e| io_error(path, e))?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(|e| io_error(path, e))?;
    let written = write(&mut file).and_then(|()| file.sync_all());
    drop(file);
    written.and_then(|()| fs::rename(&temporary, path)).map_err(|e| {
        // The first failure is the one to report; a leftover that cannot be removed either adds nothing to it.
        let _ = fs::remove_file(&temporary);
        io_error(path, e)
    })?;
    sync_directory(path);
    Ok(())
}

/// A name in the same directory (rename does not cross file systems) that no other writer uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".tmp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(hidden))
}

/// Makes the rename itself durable. The file is complete by now, and not every system can open a directory, so a
/// failure here is no failure of the write.
fn sync_directory(path: &Path) {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if let Ok(directory) = File::open(parent) {
        let _ = directory.sync_all();
    }
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { file: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_full_disk_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_atomically(&path, b"old").unwrap();
        let full = |f: &mut File| f.write_all(b"ha").and(Err(io::Error::from_raw_os_error(28)));
        let e = write_with(&path, full).unwrap_err().to_string();
        assert!(e.contains("x.json: No space left on device"), "{e}");
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no").join("x");
        assert!(write_atomically(&path, b"").unwrap_err().to_string().contains("no"));
        assert!(read(&path).unwrap_err().to_string().contains("No such file"));
        assert!(write_atomically(Path::new("/"), b"").is_err());
    }
}
