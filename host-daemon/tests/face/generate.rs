//! What is made of the command line: man pages that troff has nothing to say about, completions that bash completes by.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use clap::{Command, CommandFactory};
use kvmpilot::cli::{Arguments, command};

fn kvmpilot(arguments: &[&str]) -> String {
    let output = Process::new(env!("CARGO_BIN_EXE_kvmpilot")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The page as a reader of 80 columns sees it. Whatever groff has to warn of is a failure.
fn rendered(page: &Path) -> String {
    let output = Process::new("groff").args(["-man", "-Tutf8", "-ww", "-rLL=80n", "-P-c"]).arg(page).output();
    let output = output.expect("groff is missing: `cargo xtask setup` installs it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", page.display());
    // Bold is a letter struck twice.
    let mut text = String::new();
    for c in String::from_utf8(output.stdout).unwrap().chars() {
        match c {
            '\u{8}' => {
                text.pop();
            }
            c => text.push(c),
        }
    }
    // A minus that can be copied, a hyphen that is broken at.
    text.replace(['\u{2212}', '\u{2010}'], "-")
}

/// Names of the pages of a command and of all below it.
fn pages(command: &Command, name: &str) -> Vec<String> {
    let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let below = subs.flat_map(|sub| pages(sub, &format!("{name}-{}", sub.get_name())));
    std::iter::once(format!("{name}.1")).chain(below).collect()
}

#[test]
fn every_command_has_a_man_page_that_renders_without_warnings() {
    let directory = tempfile::tempdir().unwrap();
    kvmpilot(&["generate", "man", directory.path().to_str().unwrap()]);
    let files: BTreeSet<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut wanted: BTreeSet<String> = pages(&Arguments::command(), "kvmpilot").into_iter().collect();
    wanted.extend(["kvmpilotd.8".to_owned(), "kvmpilot.toml.5".to_owned()]);
    assert_eq!(files, wanted);
    assert!(files.contains("kvmpilot-orders-approve.1"), "{files:?}");
    for file in &files {
        let text = rendered(&directory.path().join(file));
        for heading in ["NAME", "DESCRIPTION", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == heading), "{heading} in {file}:\n{text}");
        }
        let stem = file.rsplit_once('.').unwrap().0;
        // Lines are filled with spaces to one length.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("NAME {stem} - ")), "{file}:\n{text}");
        if file.ends_with(".1") {
            for part in ["EXAMPLES", "EXIT STATUS", "wrong usage"] {
                assert!(words.contains(part), "{part} in {file}:\n{text}");
            }
        }
    }
    let top = rendered(&directory.path().join("kvmpilot-top.1"));
    assert!(top.contains("kvmpilot top --once --sort wait --columns 120"), "{top}");
    let daemon = rendered(&directory.path().join("kvmpilotd.8"));
    assert!(daemon.contains("SIGHUP") && daemon.contains("--once"), "{daemon}");
}

#[test]
fn the_page_of_the_configuration_has_every_option() {
    let directory = tempfile::tempdir().unwrap();
    kvmpilot(&["generate", "man", directory.path().to_str().unwrap()]);
    let page = rendered(&directory.path().join("kvmpilot.toml.5"));
    let configuration =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/kvmpilot.toml")).unwrap();
    let mut options = 0;
    for line in configuration.lines() {
        let is_option =
            line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        if is_option {
            let (name, _) = line[1..].split_once(" = ").unwrap();
            assert!(page.contains(&format!("{name} = ")), "{name} in\n{page}");
            options += 1;
        } else if line.starts_with('[') {
            assert!(page.lines().any(|shown| shown.trim() == line), "{line} in\n{page}");
        }
    }
    assert!(options > 40, "{options}");
    // Examples stand as they were written.
    assert!(page.lines().any(|line| line.trim() == "process = \"httpd\""), "{page}");
}

#[test]
fn bash_completes_with_what_is_generated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    kvmpilot(&["generate", "completions", path]);
    for (shell, file) in [("bash", "kvmpilot.bash"), ("zsh", "_kvmpilot"), ("fish", "kvmpilot.fish")] {
        let text = fs::read_to_string(directory.path().join(file)).unwrap();
        assert_eq!(text, kvmpilot(&["completions", shell]));
        assert!(text.contains("orders") && text.contains("rollback"), "{text}");
        assert!(!text.contains("generate"), "{shell} completes what is not for people");
    }
    let script = directory.path().join("kvmpilot.bash");
    let checked = Process::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(checked.success());
    for (words, wanted, unwanted) in [
        ("kvmpilot o", "orders", "steal"),
        ("kvmpilot orders ro", "rollback", "reject"),
        ("kvmpilot orders --state ", "rolled_back", "orders"),
        ("kvmpilot domain web --w", "--watch", "--for"),
    ] {
        let found = completed(&script, words);
        assert!(found.iter().any(|word| word == wanted), "{words}: {found:?}");
        assert!(!found.iter().any(|word| word == unwanted), "{words}: {found:?}");
    }
}

/// What bash would offer, by the function that `complete` knows for the command.
fn completed(script: &Path, words: &str) -> Vec<String> {
    let asking = "source \"$1\"; read -ra COMP_WORDS <<< \"$2\"; [[ $2 == *' ' ]] && COMP_WORDS+=(''); \
                  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=$2; COMP_POINT=${#2}; \
                  [[ $(complete -p kvmpilot) =~ -F\\ ([^ ]+) ]] || exit 9; \
                  \"${BASH_REMATCH[1]}\" kvmpilot \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Process::new("bash")
        .args(["-c", asking, "bash"])
        .arg(script)
        .arg(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn what_is_not_for_people_is_not_shown_to_them() {
    let help = command().render_long_help().to_string();
    assert!(help.contains("completions") && !help.contains("generate"), "{help}");
}
