//! `matrix`: the probes on one kernel after the other. `kernels.rs` gets them, `machine.rs` boots them, `report.rs` says
//! what came of it; what is checked inside is `tests/examples/probe-check`.

mod kernels;
mod machine;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use kvmpilot_tests::probe_report::ProbeReport;
use kvmpilot_tests::target_dir;

use crate::build_ebpf::build_ebpf;
use crate::command::{cargo, run_shown, say};
use kernels::{KERNELS, Wanted};
use machine::CONFIDENTIALITY;
use report::{Expected, Row};

/// The kernel that runs here.
const RUNNING: &str = "running";

#[derive(Debug, Args)]
pub(crate) struct MatrixOptions {
    /// 5.10, 6.1, 6.12, newest, running, no-btf, no-capability or confidentiality; all of them if none is named
    #[arg(value_name = "KERNEL")]
    names: Vec<String>,
    /// Also write the result to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl MatrixOptions {
    /// What every change has to pass: both ends of the range, and a kernel that refuses.
    pub(crate) fn for_tests() -> Self {
        let names = ["5.10", "newest", "no-capability"];
        Self { names: names.map(str::to_owned).to_vec(), json: None }
    }
}

/// What is run.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    /// None is the kernel that runs here.
    kernel: Option<Wanted>,
    /// Goes on the kernel's command line.
    word: &'static str,
    expected: Expected,
}

/// Kernels that have all, the oldest first; then the three ways to have less, on the newest.
fn cases() -> Vec<Case> {
    let [.., newest] = KERNELS;
    let full = KERNELS.iter().map(|wanted| Case {
        name: wanted.name,
        kernel: Some(*wanted),
        word: "none",
        expected: Expected::Probes,
    });
    let running = Case { name: RUNNING, kernel: None, word: "none", expected: Expected::Probes };
    let less = [
        ("no-btf", Expected::Refusal { words: "no type information", all: false }),
        ("no-capability", Expected::Refusal { words: "does not permit BPF", all: true }),
        (CONFIDENTIALITY, Expected::LockedDown),
    ];
    let less = less.map(|(word, expected)| Case { name: word, kernel: Some(newest), word, expected });
    full.chain([running]).chain(less).collect()
}

/// Runs the matrix; an error if one of its kernels fails.
pub(crate) fn matrix(options: &MatrixOptions) -> Result<()> {
    let cases = chosen(&options.names)?;
    build_ebpf()?;
    run_shown(cargo().args(["build", "--quiet", "--package", "kvmpilot-tests", "--example", "probe-check"]))?;
    let program = machine::stripped(&target_dir().join("debug/examples/probe-check"))?;
    let mut rows = Vec::new();
    for case in cases {
        say(&format!("checking the probes on {}", case.name));
        let begin = Instant::now();
        let outcome = check(&case, &program);
        rows.push(Row::new(case.name, case.expected, outcome, begin.elapsed()));
    }
    println!("{}", report::table(&rows));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed: Vec<&str> = rows.iter().filter(|row| !row.passed).map(|row| row.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("the probes fail on {}", failed.join(", "));
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Case>> {
    let cases = cases();
    if let Some(unknown) = names.iter().find(|name| !cases.iter().any(|case| case.name == *name)) {
        let known: Vec<&str> = cases.iter().map(|case| case.name).collect();
        bail!("no kernel {unknown} in the matrix; there are {}", known.join(", "));
    }
    Ok(cases
        .into_iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| name == case.name))
        .collect())
}

fn check(case: &Case, program: &Path) -> Result<ProbeReport> {
    let Some(wanted) = &case.kernel else {
        // It fails when a tier is wrong, after having said so.
        let output = Command::new(program).output()?;
        return ProbeReport::find(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned());
    };
    machine::check(&kernels::kernel(wanted)?, program, case.word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kernels_are_named_and_all_is_the_default() {
        assert_eq!(chosen(&[]).unwrap().len(), 8);
        let names = |names: &[&str]| chosen(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let picked: Vec<_> = names(&["running", "5.10"]).unwrap().iter().map(|case| case.name).collect();
        assert_eq!(picked, ["5.10", "running"]);
        assert!(names(&["4.19"]).unwrap_err().to_string().contains("4.19"));
        assert_eq!(chosen(&MatrixOptions::for_tests().names).unwrap().len(), 3);
    }
}
