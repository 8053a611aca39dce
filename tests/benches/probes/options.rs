//! The benchmark's command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// How to measure.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    /// Where else to write the figures.
    pub(crate) json: Option<PathBuf>,
}

/// What is on the command line; none if there is nothing to do.
pub(crate) fn options() -> Result<Option<Options>> {
    let mut options = Options { rounds: 25, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--rounds" => options.rounds = value()?.parse().context("--rounds wants a number")?,
            "--json" => options.json = Some(value()?.into()),
            // What cargo adds by itself.
            "--bench" => {}
            // `cargo test --benches` starts it, too.
            "--test" => return Ok(None),
            other => bail!("there is no option {other}"),
        }
    }
    Ok(Some(options))
}
