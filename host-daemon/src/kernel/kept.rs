//! A file of the kernel that stays open and is read again and again: a fifth of the cost of opening it each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// No file that is kept open is longer; the kernel gives each in one piece.
const LIMIT: usize = 4096;

/// An open file.
#[derive(Debug)]
pub(super) struct Kept(File);

impl Kept {
    /// Opens it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?))
    }

    /// What `parse` makes of its present text.
    ///
    /// # Errors
    /// Where it cannot be read any more (its cgroup is gone: `ENODEV`), or says something else than Linux documents.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<T> {
        let mut buffer = [0; LIMIT];
        let length = self.0.read_at(&mut buffer, 0)?;
        let text = std::str::from_utf8(&buffer[..length]).ok();
        text.and_then(parse)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not in the form that Linux documents"))
    }
}
