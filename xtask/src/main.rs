//! kvmpilot's tool chest, `cargo xtask`. Only the command line lives here; each command is a module.

mod apt;
mod bench;
mod build_ebpf;
mod command;
mod demo;
mod fuzz;
mod host;
mod lab;
mod matrix;
mod package;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "kvmpilot's tool chest", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing need and this machine lacks (as root; else print the commands)
    Setup,
    /// Build the eBPF programs that the daemon embeds
    BuildEbpf,
    /// Run all checks and tests; sets up what they need
    Test(test::TestOptions),
    /// Check the rules of the house that a program can check
    Tidy,
    /// Show the main job on real guests in a private lab; sets up what it needs
    Demo {
        /// Also write the result to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Leave it running when the story is told, with the web console on a loopback address, until Ctrl-C
        #[arg(long)]
        keep: bool,
    },
    /// Check the probes on older and newer kernels, each booted in QEMU, and on the one that runs
    Matrix(matrix::MatrixOptions),
    /// Measure what kvmpilot costs
    #[command(subcommand)]
    Bench(bench::BenchTask),
    /// Let things happen to real guests for hours, and check all along that kvmpilot keeps its promises (as root)
    Soak(soak::SoakOptions),
    /// Fuzz what is parsed of what guests say
    Fuzz(fuzz::FuzzOptions),
    /// Make the .deb and the .rpm in target/package and check them; sets up what it needs
    Package {
        /// Put this version on them instead of the real one: an upgrade needs two
        #[arg(long, value_name = "VERSION", hide = true)]
        as_version: Option<String>,
    },
    /// A private libvirtd with real guests
    #[command(subcommand)]
    Lab(lab::LabTask),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup => setup::setup(setup::Needs::Tests),
        Task::BuildEbpf => setup::setup(setup::Needs::Lab).and_then(|()| build_ebpf::build_ebpf()).map(drop),
        Task::Test(options) => return test::test(options),
        Task::Tidy => tidy::tidy(),
        Task::Demo { json, keep } => demo::demo(json.as_deref(), keep),
        Task::Matrix(options) => setup::setup(setup::Needs::Lab).and_then(|()| matrix::matrix(&options)),
        Task::Bench(task) => bench::bench(&task),
        Task::Soak(options) => soak::soak(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Package { as_version } => {
            let ready = setup::setup(setup::Needs::Package).and_then(|()| build_ebpf::build_ebpf());
            ready.and_then(|_| package::package(as_version.as_deref())).map(drop)
        }
        Task::Lab(task) => lab::lab(&task),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
