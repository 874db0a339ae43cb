//! The directory of a run: written beside its place, moved there at the end.

use std::fs;
use std::path::{Path, PathBuf};

use lowrank_lora::{Adapter, Host, files, peft};

use crate::{Error, Recorder, Result, Summary, loss_curve};

/// A directory that appears whole or not at all.
///
/// Everything is written into a temporary directory beside the wanted one; [`OutDir::commit`] renames it. Dropped
/// without that, it leaves nothing behind.
#[derive(Debug)]
pub struct OutDir {
    target: PathBuf,
    temp: PathBuf,
    /// Parent directories that did not exist before, outermost first.
    parents: Vec<PathBuf>,
    done: bool,
}

impl OutDir {
    /// Takes a place that does not exist yet or is an empty directory, and proves that it can be written to.
    pub fn reserve(target: &Path) -> Result<Self> {
        match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let detail = "exists and is not empty; it is not overwritten: remove it or choose another --out";
                    return Err(Error::output(target, detail));
                }
            }
            Err(_) if target.symlink_metadata().is_ok() => {
                return Err(Error::output(target, "exists and is no directory; choose another --out"));
            }
            Err(_) => {}
        }
        let Some(name) = target.file_name() else {
            return Err(Error::output(target, "has no name of its own; choose another --out"));
        };
        let parent = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut parents: Vec<PathBuf> = parent
            .ancestors()
            .take_while(|p| !p.as_os_str().is_empty() && !p.exists())
            .map(Path::to_path_buf)
            .collect();
        parents.reverse();
        let temp = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), std::process::id()));
        let out = OutDir { target: target.to_path_buf(), temp, parents, done: false };
        fs::create_dir_all(&parent)
            .and_then(|()| fs::create_dir(&out.temp))
            .and_then(|()| fs::write(out.temp.join("probe"), b"probe"))
            .and_then(|()| fs::remove_file(out.temp.join("probe")))
            .map_err(|e| Error::output(target, format!("cannot be written: {e}")))?;
        Ok(out)
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Moves it to its place.
    pub fn commit(mut self) -> Result<()> {
        // An empty directory in the way is removed; a filled one makes this fail, as it should.
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(|e| Error::output(&self.target, e))?;
        }
        fs::rename(&self.temp, &self.target).map_err(|e| Error::output(&self.target, e))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for OutDir {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        // Nothing can be done about a failure here, and the error that led here is the one to tell.
        let _ = fs::remove_dir_all(&self.temp);
        for parent in self.parents.iter().rev() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Writes what a run leaves behind beside its metrics, and moves it into place: the adapter in PEFT's format,
/// `summary.json`, `loss.svg`. `base` is the base model's name or path; with `pair`, the model, the adapter is written
/// with its init beside it, to be trained on (see [`peft::save_pair`]).
pub fn save(
    out: OutDir,
    adapter: &Adapter,
    base: Option<&str>,
    pair: Option<&dyn Host>,
    recorder: Recorder,
    summary: &Summary,
) -> Result<()> {
    let (train, valid) = recorder.finish()?;
    match pair {
        None => peft::save(adapter, out.path(), base)?,
        Some(host) => peft::save_pair(adapter, out.path(), base, host)?,
    }
    let mut json = serde_json::to_vec_pretty(summary).map_err(|e| Error::output(out.target(), e))?;
    json.push(b'\n');
    files::write_atomically(&out.path().join("summary.json"), &json)?;
    files::write_atomically(&out.path().join("loss.svg"), loss_curve(&train, &valid)?.as_bytes())?;
    out.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b/out");
        let out = OutDir::reserve(&target).unwrap();
        fs::write(out.path().join("f"), b"x").unwrap();
        drop(out);
        assert!(!root.path().join("a").exists());

        let out = OutDir::reserve(&target).unwrap();
        fs::write(out.path().join("f"), b"x").unwrap();
        assert!(!target.exists());
        out.commit().unwrap();
        assert_eq!(fs::read(target.join("f")).unwrap(), b"x");
        assert_eq!(fs::read_dir(root.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_overwritten() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), b"x").unwrap();
        let full = OutDir::reserve(root.path()).unwrap_err().to_string();
        assert!(full.contains("not empty") && full.contains("--out"), "{full}");
        let file = OutDir::reserve(&root.path().join("f")).unwrap_err().to_string();
        assert!(file.contains("no directory"), "{file}");
        let below_file = OutDir::reserve(&root.path().join("f/g")).unwrap_err().to_string();
        assert!(below_file.contains("cannot be written"), "{below_file}");
        fs::create_dir(root.path().join("empty")).unwrap();
        OutDir::reserve(&root.path().join("empty")).unwrap().commit().unwrap();
    }
}
