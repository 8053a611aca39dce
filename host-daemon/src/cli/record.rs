//! `kvmpilot record`: takes the daemon's lines and keeps them in a file, whole lines only, whatever ends it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::client::{Client, ClientError};
use crate::record::{EndReason, LONGEST_LINE, Line};

/// What the daemon may take longer than the recording lasts.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no recording, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("kvmpilotd sent a line of more than {} MiB; nothing was kept", LONGEST_LINE >> 20)]
    TooLong,
    #[error("{}: the recording holds {turns} turns and ended early: {why}", path.display())]
    Early { path: PathBuf, turns: u64, why: String },
}

/// Records to `path` for `length`.
pub(super) async fn record(client: &Client, path: &Path, length: Duration) -> Result<(), RecordError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RecordError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RecordError::Signals)?;
    let seconds = length.as_secs().max(1);
    let (mut body, driver) = client.stream(&format!("/record?seconds={seconds}")).await?;
    let mut file = Recording::create(path, length)?;
    let late = sleep(length + PATIENCE);
    tokio::pin!(late);
    let end = loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = terminate.recv() => break Some(EndReason::Person),
            _ = interrupt.recv() => break Some(EndReason::Person),
            () = &mut late => break None,
        };
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    file.take(data)?;
                }
            }
            Some(Err(_)) | None => break None,
        }
    };
    driver.abort();
    file.finish(end)
}

/// The file under way. It gets its name at the end; until then it is beside it and hidden.
struct Recording {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    /// The begin of a line whose end has not come.
    rest: Vec<u8>,
    /// The last whole line.
    last: Vec<u8>,
    lines: u64,
    bytes: u64,
    began: Instant,
    length: Duration,
}

impl Recording {
    fn create(path: &Path, length: Duration) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Write { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let partial = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        // What is there may be a link that somebody else has made.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let file = file.map_err(failed)?;
        eprintln!("kvmpilot: recording for {} s; Ctrl-C ends it earlier and keeps it", length.as_secs());
        Ok(Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::new(file),
            rest: Vec::new(),
            last: Vec::new(),
            lines: 0,
            bytes: 0,
            began: Instant::now(),
            length,
        })
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), RecordError> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = data.split_at(end + 1);
            data = rest;
            self.rest.extend_from_slice(line);
            self.last = std::mem::take(&mut self.rest);
            self.write_last()?;
        }
        self.rest.extend_from_slice(data);
        if self.rest.len() > LONGEST_LINE { Err(RecordError::TooLong) } else { Ok(()) }
    }

    fn write_last(&mut self) -> Result<(), RecordError> {
        let written = self.file.write_all(&self.last).and_then(|()| self.file.flush());
        written.map_err(|source| RecordError::Write { path: self.partial.clone(), source })?;
        self.lines += 1;
        self.bytes += u64::try_from(self.last.len()).unwrap_or(u64::MAX);
        if io::stderr().is_terminal() {
            let (so_far, length) = (self.began.elapsed().as_secs(), self.length.as_secs());
            eprint!("\r{so_far} s of {length} s, {} KiB ", self.bytes >> 10);
        }
        Ok(())
    }

    /// Adds an end if the daemon sent none, and gives the file its name.
    fn finish(mut self, by_hand: Option<EndReason>) -> Result<(), RecordError> {
        let sent = match serde_json::from_slice(&self.last) {
            Ok(Line::End { reason }) => Some(reason),
            _ => None,
        };
        let reason = sent.or(by_hand).unwrap_or(EndReason::Daemon);
        if sent.is_none() {
            self.last = serde_json::to_vec(&Line::End { reason }).unwrap_or_default();
            self.last.push(b'\n');
            self.write_last()?;
        }
        if io::stderr().is_terminal() {
            eprintln!();
        }
        let failed = |source| RecordError::Write { path: self.path.clone(), source };
        self.file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&self.partial, &self.path).map_err(failed)?;
        // Header and end are lines, too.
        let turns = self.lines.saturating_sub(2);
        match reason {
            EndReason::Time | EndReason::Person => {
                eprintln!("kvmpilot: {}: {turns} turns, {} KiB", self.path.display(), self.bytes >> 10);
                Ok(())
            }
            EndReason::TooSlow | EndReason::Daemon => {
                Err(RecordError::Early { path: self.path.clone(), turns, why: reason.to_string() })
            }
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Gone already if it was renamed.
        let _ = fs::remove_file(&self.partial);
    }
}
