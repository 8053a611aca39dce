//! What happened and when: on the screen, and in the file that `--log` names.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

#[derive(Debug)]
pub(super) struct Diary {
    began: Instant,
    file: Option<File>,
}

impl Diary {
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write the log {}", path.display()))
        };
        Ok(Self { began: Instant::now(), file: path.map(create).transpose()? })
    }

    /// Since the soak began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn note(&mut self, text: &str) {
        let line = format!("{:>8.1} s  {text}", self.elapsed().as_secs_f64());
        println!("{line}");
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            eprintln!("the log is not written any more: {error}");
            self.file = None;
        }
    }
}
