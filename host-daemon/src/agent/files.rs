//! Hashes of watched files: one program for all of a guest's. Paths are its arguments, so nothing in them is shell code.

use kvmpilot_core::sample::{FileFound, FileSample};

use super::linux::{PATH, program};
use super::{Agent, AgentError, Transport};

const FILES: &str = include_str!("files.sh");

/// Files that are looked at in one guest at most.
const MOST: usize = 32;

impl<T: Transport> Agent<T> {
    /// Looks at files, in their order.
    ///
    /// # Errors
    /// When the agent cannot be used, or the guest has no `sha256sum`.
    pub async fn files(&mut self, paths: &[String]) -> Result<Vec<FileSample>, AgentError> {
        let paths: Vec<String> =
            paths.iter().filter(|path| path.starts_with('/')).take(MOST).cloned().collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let output = self.exec(&program(FILES), &paths, &[PATH.to_owned()]).await?;
        let found = read(&output.stdout, paths.len());
        let silent = || FileFound::Unreadable("the guest told nothing about it".to_owned());
        let sample = |(path, found): (String, Option<FileFound>)| FileSample {
            path,
            found: found.unwrap_or_else(silent),
        };
        Ok(paths.into_iter().zip(found).map(sample).collect())
    }
}

/// What the script says of each of some files.
pub(super) fn read(stdout: &[u8], files: usize) -> Vec<Option<FileFound>> {
    let mut found = vec![None; files];
    for line in String::from_utf8_lossy(stdout).lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        let place = number.parse::<usize>().ok().and_then(|number| found.get_mut(number.checked_sub(1)?));
        if let (Some(place), Some(what)) = (place, read_line(rest)) {
            *place = Some(what);
        }
    }
    found
}

/// What one line says behind its number.
fn read_line(line: &str) -> Option<FileFound> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("sum", sum) if sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(FileFound::Sha256(sum.to_ascii_lowercase()))
        }
        ("missing", "") => Some(FileFound::Missing),
        ("irregular", "") => Some(FileFound::Unreadable("it is no regular file".to_owned())),
        ("unreadable", "") => Some(FileFound::Unreadable("the agent's user may not read it".to_owned())),
        ("large", "") => Some(FileFound::TooLarge),
        _ => None,
    }
}
