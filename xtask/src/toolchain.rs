//! Finds what can compile the eBPF programs: a Rust tool chain with its library's source, and a bpf-linker whose LLVM
//! is not older than the compiler's. Any origin will do: rustup, Debian, self-made.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvmpilot_tests::output_of;

/// The workspace's `rust-version`.
const OLDEST_MINOR: u32 = 95;

/// A Rust tool chain that can build the library for a target that has none ready-made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Holds `bin/cargo`, `bin/rustc` and `lib/rustlib/src`.
    pub(crate) sysroot: PathBuf,
    /// Such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A bpf-linker that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Major version of its LLVM; unknown if that is linked statically.
    pub(crate) llvm: Option<u32>,
}

/// The first tool chain that has a fitting linker.
pub(crate) fn find() -> Option<(Compiler, Linker)> {
    compilers().into_iter().find_map(|compiler| linker(compiler.llvm).map(|linker| (compiler, linker)))
}

/// All tool chains that would serve, nightly ones first, Debian's last.
pub(crate) fn compilers() -> Vec<Compiler> {
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home().join(".rustup"), PathBuf::from);
    let listed = rustup.join("toolchains").read_dir().into_iter().flatten().flatten();
    let mut sysroots: Vec<_> = listed.map(|entry| entry.path()).collect();
    sysroots.sort_by_key(|path| !path.to_string_lossy().contains("/nightly"));
    sysroots.push(PathBuf::from("/usr"));
    sysroots.iter().filter_map(|sysroot| inspect(sysroot)).collect()
}

fn inspect(sysroot: &Path) -> Option<Compiler> {
    let source = sysroot.join("lib/rustlib/src/rust/library/core");
    if !source.exists() || !sysroot.join("bin/cargo").exists() {
        return None;
    }
    let about = output_of(Command::new(sysroot.join("bin/rustc")).arg("-vV")).ok()?;
    let (release, llvm) = versions(&about)?;
    Some(Compiler { sysroot: sysroot.to_owned(), release, llvm })
}

/// Release and LLVM from `rustc -vV`; none if the release is too old.
fn versions(about: &str) -> Option<(String, u32)> {
    let field = |key: &str| about.lines().find_map(|line| line.strip_prefix(key));
    let release = field("release: ")?;
    let mut parts = release.split('.');
    let (major, minor): (u32, u32) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    (major > 1 || minor >= OLDEST_MINOR).then(|| (release.to_owned(), llvm))
}

/// The bpf-linker of `PATH` or of cargo's own directory, if it works with the compiler's LLVM.
fn linker(compiler_llvm: u32) -> Option<Linker> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([cargo_bin()]);
    let working = directories
        .map(|directory| directory.join("bpf-linker"))
        .filter(|path| path.exists())
        .filter(|path| {
            // One that was built elsewhere may lack its libraries here.
            output_of(Command::new(path).arg("--version")).is_ok()
        });
    let mut linkers = working.map(|path| Linker { llvm: linked_llvm(&path), path });
    linkers.find(|linker| linker.llvm.is_none_or(|llvm| llvm >= compiler_llvm))
}

/// Reads "libLLVM.so.22.1 => ..." from what the dynamic linker says.
fn linked_llvm(linker: &Path) -> Option<u32> {
    let libraries = output_of(Command::new("ldd").arg(linker)).ok()?;
    let version = libraries.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let digits = version.trim_start_matches(['.', 's', 'o', '-']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from).join("bin")
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_compilers_are_refused() {
        let about = |release| format!("rustc\nrelease: {release}\nLLVM version: 22.1.8\n");
        assert_eq!(versions(&about("1.96.0")), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(versions(&about("1.97.0-nightly")), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(versions(&about("1.85.1")), None);
        assert_eq!(versions("rustc 1.96.0"), None);
    }
}
