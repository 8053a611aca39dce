//! Running programs in view of the person in front.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Says what is being done.
pub(crate) fn say(text: &str) {
    println!("==> {text}");
}

/// Runs a command with this process's own output, after showing it.
pub(crate) fn run_shown(command: &mut Command) -> Result<()> {
    println!("    $ {}", shell_line(command));
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed ({status})", shell_line(command));
    }
    Ok(())
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(kvmpilot_tests::workspace());
    command
}

/// A command as one would type it. `PATH` is left out: it is long and rarely the point.
pub(crate) fn shell_line(command: &Command) -> String {
    let envs = command.get_envs().filter(|(key, _)| *key != "PATH").filter_map(|(key, value)| {
        Some(format!("{}={}", key.to_string_lossy(), quoted(&value?.to_string_lossy())))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| quoted(&word.to_string_lossy()));
    envs.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_typed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'a b'", ""]).env("PATH", "/usr/bin").env("PREFIX", "/x y");
        assert_eq!(shell_line(&command), r#"PREFIX='/x y' sh -c 'echo '\''a b'\''' ''"#);
    }
}
