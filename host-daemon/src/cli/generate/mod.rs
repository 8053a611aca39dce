//! What is made of the command line itself: completions for shells, and man pages.

mod man;
mod options_page;
mod roff;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand, ValueEnum};

use super::command;

#[derive(Debug, Subcommand)]
pub(super) enum GenerateCommand {
    /// Write the man pages of everything into a directory
    Man {
        /// Directory; made if it is not there
        directory: PathBuf,
    },
    /// Write the completions of all shells into a directory
    Completions {
        /// Directory; made if it is not there
        directory: PathBuf,
    },
}

/// A shell that can complete our command lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: Shell) -> io::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(clap_complete::Shell::from(shell), &mut visible(), "kvmpilot", &mut text);
    io::stdout().lock().write_all(&text)
}

/// Writes files.
pub(super) fn run(command: GenerateCommand) -> io::Result<()> {
    match command {
        GenerateCommand::Man { directory } => {
            fs::create_dir_all(&directory)?;
            man::pages()?.into_iter().try_for_each(|(name, text)| write(&directory, &name, &text))
        }
        GenerateCommand::Completions { directory } => {
            fs::create_dir_all(&directory)?;
            for shell in Shell::value_variants() {
                clap_complete::generate_to(
                    clap_complete::Shell::from(*shell),
                    &mut visible(),
                    "kvmpilot",
                    &directory,
                )?;
            }
            Ok(())
        }
    }
}

fn write(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    fs::write(&path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The command line without what is not for people.
fn visible() -> Command {
    let whole = command();
    let mut root = Command::new("kvmpilot").version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = whole.get_about() {
        root = root.about(about.clone());
    }
    root.args(whole.get_arguments().cloned())
        .subcommands(whole.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}
