//! `kvmpilot`, the command line: arguments, and off into [`kvmpilot::cli`].

use std::process::ExitCode;

use kvmpilot::cli;

fn main() -> ExitCode {
    let arguments = cli::parse();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(arguments)),
        Err(error) => {
            eprintln!("kvmpilot: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
