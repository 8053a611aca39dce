//! A terminal emulator with a shell in it, inside the lab's namespaces: tmux with a server of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Lab;
use crate::run::{output_of, run, wait_for};

/// How long a screen may take to show what is waited for.
const SHOWN: Duration = Duration::from_secs(20);

/// A terminal. Dropping it ends its tmux server and all that runs in it.
#[derive(Debug)]
pub struct Terminal<'a> {
    lab: &'a Lab,
    config: PathBuf,
    name: String,
}

impl Lab {
    /// Opens a terminal of this size.
    ///
    /// # Errors
    /// When tmux does not start.
    pub fn terminal(&self, width: u16, height: u16) -> Result<Terminal<'_>> {
        let config = self.state_dir().join("tmux.conf");
        // The whole size is the program's, and Escape is Escape at once.
        fs::write(&config, "set -g status off\nset -g escape-time 0\nset -g default-shell /bin/sh\n")?;
        let terminal = Terminal { lab: self, config, name: self.name().to_owned() };
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height])?;
        // Else the size is that of whoever looks at it.
        terminal.tmux(&["set", "-g", "window-size", "manual"])?;
        Ok(terminal)
    }
}

impl Terminal<'_> {
    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = self.lab.command("tmux");
        command.env("TMUX_TMPDIR", self.lab.state_dir()).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        command.args(["-u", "-L", &self.name, "-f"]).arg(&self.config).args(args);
        output_of(&mut command)
    }

    /// Types text as it is.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn types(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", "--", text]).map(drop)
    }

    /// Presses a key by tmux's name of it: `Enter`, `Escape`, `Down`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Changes its size, as a person does with a window.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]).map(drop)
    }

    /// The lines that it shows.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn screen(&self) -> Result<Vec<String>> {
        Ok(self.tmux(&["capture-pane", "-p"])?.lines().map(str::to_owned).collect())
    }

    /// What tmux knows of it, like `#{alternate_on}`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn says(&self, format: &str) -> Result<String> {
        Ok(self.tmux(&["display-message", "-p", format])?.trim_end().to_owned())
    }

    /// Waits until a condition holds for the screen, and returns that screen. A frame comes in several writes: a screen counts
    /// when it is the same in two looks.
    ///
    /// # Errors
    /// When it does not in time; the message holds the screen.
    pub fn shows(&self, what: &str, holds: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let mut last = Vec::new();
        wait_for(what, SHOWN, || {
            let screen = self.screen()?;
            let is_still = std::mem::replace(&mut last, screen.clone()) == screen;
            ensure!(is_still && holds(&screen), "the screen is\n{}", screen.join("\n"));
            Ok(screen)
        })
    }

    /// Process id of the program that runs in the foreground of its shell.
    ///
    /// # Errors
    /// When there is none.
    pub fn foreground(&self) -> Result<i32> {
        let shell = self.says("#{pane_pid}")?;
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let child = children.split_whitespace().next().context("nothing runs in the terminal")?;
        Ok(child.parse()?)
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut command = self.lab.command("tmux");
        command.env("TMUX_TMPDIR", self.lab.state_dir()).args(["-L", &self.name, "kill-server"]);
        if let Err(error) = run(&mut command) {
            eprintln!("the terminal did not end: {error:#}");
        }
    }
}
