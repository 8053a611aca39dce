//! What may be said to `kvmpilot top`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::parse_duration;

#[derive(Clone, Debug, Args)]
pub(in super::super) struct TopOptions {
    /// Look into the domain of this name or UUID at once
    pub(super) domain: Option<String>,
    /// Time between two looks, 500ms to 1h
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub(super) interval: Duration,
    /// Column to sort by
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = Sort::Need)]
    pub(super) sort: Sort,
    /// Only domains whose name, class or state has this in it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) filter: String,
    /// Print one frame with all rows as plain text and end, for scripts
    #[arg(long)]
    pub(super) once: bool,
    /// Width of that frame, 40 to 500 [default: $COLUMNS, or 80]
    #[arg(long, value_name = "N", requires = "once", value_parser = clap::value_parser!(u16).range(40..=500))]
    pub(super) columns: Option<u16>,
}

/// What the domains are sorted by: the largest first, but names by the alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// How urgently it needs something
    Need,
    /// Time on a pcpu
    Run,
    /// Share of the time in which it wanted to run and had to wait
    Wait,
    /// Time in which others ran while its vcpus waited
    Steal,
    /// Memory that it has
    Memory,
    /// Traffic in both directions
    Traffic,
    /// When kvmpilot changed something last
    Change,
    /// Name
    Name,
}

impl Sort {
    const ALL: [Self; 8] = [
        Self::Need,
        Self::Run,
        Self::Wait,
        Self::Steal,
        Self::Memory,
        Self::Traffic,
        Self::Change,
        Self::Name,
    ];

    /// The one that this key stands for.
    pub(super) fn of_key(key: char) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.key() == key)
    }

    pub(super) const fn key(self) -> char {
        match self {
            Self::Need => 'n',
            Self::Run => 'c',
            Self::Wait => 'w',
            Self::Steal => 's',
            Self::Memory => 'm',
            Self::Traffic => 't',
            Self::Change => 'l',
            Self::Name => 'a',
        }
    }

    /// In words, for the line above the table.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Need => "need",
            Self::Run => "run",
            Self::Wait => "wait",
            Self::Steal => "steal",
            Self::Memory => "memory",
            Self::Traffic => "traffic",
            Self::Change => "last change",
            Self::Name => "name",
        }
    }

    /// The one `steps` further, round and round.
    pub(super) fn next(self, back: bool) -> Self {
        let here = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        let step = if back { Self::ALL.len() - 1 } else { 1 };
        Self::ALL[(here + step) % Self::ALL.len()]
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let possible = Duration::from_millis(500)..=Duration::from_secs(3600);
    if possible.contains(&time) { Ok(time) } else { Err("500ms to 1h are possible".to_owned()) }
}
