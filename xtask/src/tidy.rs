//! `tidy`: those rules of the house that a program can check. The rules are in `tidy/rules.rs`; here is the walk.

mod lexer;
mod rules;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvmpilot_tests::workspace;

use crate::command::say;

/// A line that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    /// From 1; 0 is the file as a whole.
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks the whole work tree.
pub(crate) fn tidy() -> Result<()> {
    let (files, faults) = check_tree(workspace())?;
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    if !faults.is_empty() {
        bail!("{} faults in {files} files", faults.len());
    }
    say(&format!("tidy: {files} files keep the rules of the house"));
    Ok(())
}

fn check_tree(root: &Path) -> Result<(usize, Vec<Fault>)> {
    let (mut files, mut faults, mut directories) = (0, Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_symlink() || ["target", ".git"].contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            // What is not text has no lines to check.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            files += 1;
            faults.extend(rules::check_file(&path.strip_prefix(root)?.to_string_lossy(), &text));
        }
    }
    faults.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok((files, faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_tree_is_tidy() {
        let (files, faults) = check_tree(workspace()).unwrap();
        assert!(files > 20, "only {files} files found");
        assert!(faults.is_empty(), "{}", faults.iter().map(|fault| format!("{fault}\n")).collect::<String>());
    }
}
