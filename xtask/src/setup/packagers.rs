//! cargo-deb and cargo-generate-rpm, which make packages of what cargo has built.

use std::process::Command;

use kvmpilot_tests::output_of;

use super::Step;
use crate::command::cargo;
use crate::toolchain::cargo_bin;

/// Names, and the least versions. Exactly these are installed where there are older ones or none.
const PACKAGERS: [(&str, &str); 2] = [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1")];

/// What is missing of them.
pub(super) fn missing() -> Vec<Step> {
    let lacks = PACKAGERS.into_iter().filter(|(name, least)| {
        // cargo looks beside its own kin first, then in PATH.
        let told = [cargo_bin().join(name), name.into()]
            .into_iter()
            .find_map(|program| output_of(Command::new(program).arg("--version")).ok());
        told.is_none_or(|told| version(&told) < version(least))
    });
    let install = |(name, version): (&str, &str)| {
        let mut command = cargo();
        command.args(["install", "--locked", "--force", "--version", version, name]);
        Step::Run { command, as_root: false }
    };
    lacks.map(install).collect()
}

/// The numbers of the last word: of "cargo-deb 3.8.0" or "3.8.0".
fn version(told: &str) -> Vec<u32> {
    let last = told.split_ascii_whitespace().next_back().unwrap_or_default();
    last.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version("cargo-generate-rpm 0.21.1\n"), [0, 21, 1]);
        assert!(version("3.10.0") > version("3.8.0"));
        assert!(version("nonsense") < version("3.8.0"));
    }
}
