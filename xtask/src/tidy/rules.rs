//! The rules, as tables, and their application to one file. Paths are relative to the workspace.

use super::Fault;
use super::lexer::{Line, lines};

const FAULT_LINES: usize = 600;
const MAIN_LINES: usize = 100;

/// Words that only some places may say.
struct Words {
    /// A path of code, a macro or a keyword; matched as a whole word.
    words: &'static [&'static str],
    /// Where the rule holds.
    within: &'static str,
    /// Where within that it does not.
    except: &'static [&'static str],
    why: &'static str,
}

const DAEMON: &str = "host-daemon/src/";
const CORE: &str = "host-daemon/core/src/";

const WORDS: &[Words] = &[
    Words {
        words: &["virt::", "virt_sys::"],
        within: "",
        except: &["host-daemon/src/libvirt"],
        why: "only libvirt/ names the libvirt binding",
    },
    Words {
        words: &["aya::", "aya_obj::", "aya_log::"],
        within: "",
        // aya's trait for plain data must be implemented where the shared types are.
        // The benchmark compares the probes with programs that the daemon has not.
        except: &["host-daemon/src/probes", "ebpf-probes/common/", "tests/benches/probes"],
        why: "only probes/ names aya",
    },
    Words {
        words: &["unsafe"],
        within: "",
        except: &[
            "host-daemon/src/libvirt",
            "host-daemon/src/probes",
            "host-daemon/src/kernel",
            "ebpf-probes/",
            "tests/",
            "xtask/",
        ],
        why: "unsafe code lives in libvirt/, probes/, kernel/ and the eBPF programs",
    },
    Words {
        words: &[
            // Addresses of std::net are mere values, but not what can open one.
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "std::fs",
            "std::os",
            "std::env",
            "std::process",
            "std::thread",
            "tokio",
            "println!",
            "eprintln!",
        ],
        within: CORE,
        // A thread is the only way to a stack that is deep enough for the parser of conditions.
        except: &["host-daemon/core/src/rules/condition.rs"],
        why: "core is pure: no I/O",
    },
    Words {
        words: &["Instant::now", "SystemTime", "std::time::Instant"],
        within: CORE,
        except: &[],
        why: "core is pure: time is an input",
    },
    Words { words: &["act"], within: "host-daemon/src/sense", except: &[], why: "sense never names act" },
    Words { words: &["sense"], within: "host-daemon/src/act", except: &[], why: "act never names sense" },
];

/// Texts that no file may hold. Put together here, so that this one does not either.
const TEXTS: [(&str, &str); 7] = [
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp", "/kp"), "a path of one machine"),
    (concat!("crates", ".io"), "the host of a package registry"),
    (concat!("static.rust-", "lang.org"), "the host of a package registry"),
    (concat!("deb.deb", "ian.org"), "the host of a package registry"),
    (concat!("py", "pi.org"), "the host of a package registry"),
    (concat!("registry.np", "mjs.org"), "the host of a package registry"),
];

/// Checks one file.
pub(super) fn check_file(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |line, what: String| faults.push(Fault { path: path.to_owned(), line, what });

    // Cargo.lock names the registry by its nature; the fuzzers are a workspace of their own and have another one.
    if !["Cargo.lock", "fuzz/Cargo.lock"].contains(&path) {
        for (number, line) in text.lines().enumerate() {
            for (found, why) in TEXTS.iter().filter(|(found, _)| line.contains(found)) {
                fault(number + 1, format!("`{found}` is {why}"));
            }
        }
    }
    if !path.ends_with(".rs") {
        return faults;
    }

    let length = text.lines().count();
    if length > FAULT_LINES {
        fault(0, format!("{length} lines; more than {FAULT_LINES} is a fault"));
    }
    let is_main = path.ends_with("/main.rs") || path.contains("/src/bin/");
    if is_main && !path.starts_with("ebpf-probes/") && length > MAIN_LINES {
        fault(0, format!("{length} lines; a main has at most {MAIN_LINES}"));
    }
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        fault(1, "no first comment that says what lives here".to_owned());
    }

    let lines = lines(text);
    for (number, line) in lines.iter().enumerate() {
        for (word, why) in forbidden(path, line) {
            fault(number + 1, format!("`{word}`: {why}"));
        }
        if let Some(string) = kernel_path(path, line) {
            fault(number + 1, format!("`{string}`: only kernel/ opens files of /proc and /sys"));
        }
    }
    faults
}

fn forbidden(path: &str, line: &Line) -> Vec<(&'static str, &'static str)> {
    let rules = WORDS.iter().filter(|rule| {
        let test = line.test && rule.within == CORE;
        path.starts_with(rule.within) && !rule.except.iter().any(|except| path.starts_with(except)) && !test
    });
    rules
        .flat_map(|rule| rule.words.iter().map(|word| (*word, rule.why)))
        .filter(|(word, _)| holds_word(&line.code, word))
        .collect()
}

/// Whether `word` stands in `code` and is not part of a longer one.
fn holds_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let open = word.ends_with(part) && code[at + word.len()..].starts_with(part);
        !code[..at].ends_with(part) && !open
    })
}

/// A literal that names a file of the kernel, in a room of the daemon that must not open one.
fn kernel_path<'a>(path: &str, line: &'a Line) -> Option<&'a str> {
    let exempt = !path.starts_with(DAEMON) || path.starts_with("host-daemon/src/kernel") || line.test;
    // The types of the running kernel are the business of the probes.
    let btf =
        |string: &str| path.starts_with("host-daemon/src/probes") && string.starts_with("/sys/kernel/btf/");
    let named =
        |string: &&String| (string.starts_with("/proc") || string.starts_with("/sys/")) && !btf(string);
    line.strings.iter().find(named).filter(|_| !exempt).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        check_file(path, text).iter().map(ToString::to_string).collect()
    }

    /// The good text passes, and the bad one is found once, for the reason given.
    fn only(path: &str, bad: &str, good: &str, reason: &str) {
        let head = "//! Head.\n";
        let found = faults(path, &format!("{head}{bad}\n"));
        assert!(found.len() == 1 && found[0].contains(reason), "{bad}: {found:?}");
        assert_eq!(faults(path, &format!("{head}{good}\n")), [""; 0], "{good}");
    }

    #[test]
    fn gateways_keep_their_crates() {
        only(
            "host-daemon/src/sense.rs",
            "use virt::domain::Domain;",
            "use crate::libvirt::Domains;",
            "libvirt/",
        );
        only(
            "host-daemon/src/act/pin.rs",
            "fn f(d: ::virt_sys::virDomainPtr) {}",
            "// virt_sys::x",
            "libvirt/",
        );
        only("host-daemon/src/daemon.rs", "use aya::Ebpf;", "fn f(x: maya::Ebpf) {}", "probes/");
        assert_eq!(
            faults("host-daemon/src/libvirt/events.rs", "//! E.\nuse virt::sys;\nunsafe {}\n"),
            [""; 0]
        );
        assert_eq!(faults("host-daemon/src/probes.rs", "//! P.\nuse aya::Ebpf;\n"), [""; 0]);
        assert_eq!(
            faults("ebpf-probes/src/main.rs", "#![no_std]\n//! P.\nuse aya_ebpf::macros::map;\n"),
            [""; 0]
        );
    }

    #[test]
    fn kernel_files_are_opened_in_one_room() {
        only(
            "host-daemon/src/store/db.rs",
            "open(\"/proc/self/stat\")",
            "say(\"see /proc/self/stat\")",
            "kernel/",
        );
        only("host-daemon/src/agent/linux.rs", "open(\"/sys/class\")", "open(\"/system\")", "kernel/");
        only(
            "host-daemon/src/probes/a.rs",
            "open(\"/sys/class\")",
            "open(\"/sys/kernel/btf/vmlinux\")",
            "kernel/",
        );
        assert_eq!(faults("host-daemon/src/kernel/psi.rs", "//! P.\nopen(\"/proc/pressure\")\n"), [""; 0]);
    }

    #[test]
    fn core_is_pure() {
        let path = "host-daemon/core/src/decide/guard.rs";
        only(path, "use std::fs;", "use std::fmt;", "no I/O");
        only(path, "std::net::TcpStream::connect(a)", "use std::net::IpAddr;", "no I/O");
        only(path, "tokio::spawn(f)", "let tokioish = 1;", "no I/O");
        only(path, "let now = Instant::now();", "let now: Duration = begin;", "time is an input");
        only(path, "SystemTime::UNIX_EPOCH", "\"SystemTime\"", "time is an input");
        only(path, "unsafe { f() }", "#![deny(unsafe_code)]", "unsafe");
        only(path, "println!(\"x\")", "#[cfg(test)]\nmod tests { println!(\"x\") }", "no I/O");
    }

    #[test]
    fn sense_and_act_are_strangers() {
        only(
            "host-daemon/src/sense/host.rs",
            "use crate::act::Ledger;",
            "let exact = fact::x();",
            "sense never",
        );
        only(
            "host-daemon/src/act.rs",
            "use crate::{sense, store};",
            "let sensed = nonsense::x();",
            "act never",
        );
    }

    #[test]
    fn unsafe_has_its_rooms() {
        only(
            "host-daemon/src/api/server.rs",
            "unsafe fn f() {}",
            "/// not unsafe\nfn f() {}",
            "unsafe code lives",
        );
        assert_eq!(faults("tests/src/keeper.rs", "//! K.\nunsafe { f() }\n"), [""; 0]);
    }

    #[test]
    fn sizes_and_heads_are_checked() {
        let long = "//! Head.\n".to_owned() + &"x\n".repeat(FAULT_LINES);
        assert_eq!(
            faults("xtask/src/long.rs", &long),
            ["xtask/src/long.rs:0: 601 lines; more than 600 is a fault"]
        );
        assert_eq!(faults("xtask/src/just.rs", &long[..long.len() - 2]), [""; 0]);
        let main = "//! Head.\n".to_owned() + &"x\n".repeat(MAIN_LINES);
        assert_eq!(faults("host-daemon/src/bin/kvmpilotd.rs", &main).len(), 1);
        assert_eq!(faults("xtask/src/a.rs", "use std::fmt;\n//! Late.\n").len(), 1);
        assert_eq!(faults("xtask/src/a.rs", "").len(), 1);
    }

    #[test]
    fn no_file_names_a_registry_or_a_machine() {
        let host = format!("see https://{}/kvmpilot", TEXTS[2].0);
        assert_eq!(faults("README.md", &host).len(), 1);
        assert_eq!(faults("Cargo.lock", &host), [""; 0]);
        assert_eq!(faults("xtask/src/a.rs", &format!("//! Head.\n// {}x\n", TEXTS[0].0)).len(), 1);
        assert_eq!(faults("README.md", "a network/host path\n"), [""; 0]);
    }
}
