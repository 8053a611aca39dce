//! [`Diagnostic`]: what is wrong where in a configuration file, shown with its line and a caret.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        std::fs::read_to_string(path).map(|text| Self { path: path.to_owned(), text })
    }
}

impl Source {
    /// The line, from 1, in which this byte stands.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// Something wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line itself.
    pub text: String,
    /// How many characters of it are meant, at least 1.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Diagnostic {
    pub(super) fn new(source: &Source, span: Range<usize>, message: String, help: String) -> Self {
        // A syntax error's span may end beyond the text or be empty there.
        let text = source.text.as_str();
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.get(start..).unwrap_or_default();
        let line_end = rest.find('\n').map_or(text.len(), |at| start + at);
        let chars = |range: Range<usize>| text.get(range).unwrap_or_default().chars().count();
        Self {
            path: source.path.clone(),
            line: before.matches('\n').count() + 1,
            column: chars(line_start..start) + 1,
            text: without_secret(text.get(line_start..line_end).unwrap_or_default().trim_end()),
            width: chars(start..end.min(line_end)).max(1),
            message,
            help,
        }
    }
}

/// The line, without what stands behind the `=` where that may be secret: it is logged.
fn without_secret(line: &str) -> String {
    let key = line.trim_start().to_ascii_lowercase();
    match line.split_once('=') {
        Some((name, _)) if key.starts_with("headers") || key.contains("authorization") => {
            format!("{name}= ...")
        }
        _ => line.to_owned(),
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = " ".repeat(self.line.to_string().len());
        // Tabs stay, so that the caret is under its text however wide they are shown.
        let indent: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)?;
        writeln!(f, "{} | {}", self.line, self.text)?;
        write!(f, "{gutter} | {indent}{}", "^".repeat(self.width))?;
        if !self.help.is_empty() {
            write!(f, "\n{gutter} = {}", self.help)?;
        }
        Ok(())
    }
}
