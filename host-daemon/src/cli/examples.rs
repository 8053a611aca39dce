//! Examples of every command, for `--help` and for the man pages. A test holds that each of them is understood.

use clap::Command;

/// What every command ends with.
pub(super) const EXIT_CODES: [(&str, &str); 3] = [
    ("0", "it was done, and where something is checked all is well"),
    ("1", "it failed, or a check found a problem; standard error says what to do"),
    ("2", "wrong usage; nothing was done"),
];

/// A command's words behind `kvmpilot`, and command lines with what they are for.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

const EXAMPLES: &[Examples] = &[
    (
        "",
        &[
            ("kvmpilot status", "how the daemon and its host are"),
            ("kvmpilot top", "the domains by need, live"),
            ("kvmpilot orders --state proposed", "what waits for approval"),
            ("kvmpilot doctor", "what could be better, and how"),
        ],
    ),
    (
        "status",
        &[
            ("kvmpilot status", "health, mode, pressure, own cost, findings"),
            ("kvmpilot status --json | jq .health", "for a script"),
        ],
    ),
    (
        "top",
        &[
            ("kvmpilot top", "live, by need"),
            ("kvmpilot top web --interval 5s", "look into web at once, every 5 s"),
            ("kvmpilot top --once --sort wait --columns 120", "one frame of text, who waits most first"),
        ],
    ),
    (
        "domains",
        &[
            ("kvmpilot domains", "a table"),
            ("kvmpilot domains --json | jq '.domains[] | .name'", "names for a script"),
        ],
    ),
    (
        "domain",
        &[
            ("kvmpilot domain web", "where the time of each vcpu of web goes"),
            ("kvmpilot domain web --watch wake-latency --for 30s", "from wake-up to pcpu"),
            ("kvmpilot domain web --watch exits", "why its vcpus leave the guest"),
        ],
    ),
    ("processes", &[("kvmpilot processes web", "applications, their levels, and their processes")]),
    (
        "steal",
        &[
            ("kvmpilot steal", "who ran while whose vcpus waited"),
            ("kvmpilot steal --columns 12", "with more columns"),
        ],
    ),
    ("flows", &[("kvmpilot flows web", "who talks to web, how much, and to which process")]),
    (
        "orders",
        &[
            ("kvmpilot orders", "the newest orders"),
            ("kvmpilot orders --state proposed --domain web", "what waits for approval at web"),
            ("kvmpilot orders approve 12 13", "carry two of them out"),
        ],
    ),
    ("orders list", &[("kvmpilot orders list --limit 20", "the newest twenty")]),
    ("orders show", &[("kvmpilot orders show 12", "everything in order 12")]),
    ("orders approve", &[("kvmpilot orders approve 12 13", "carry both out")]),
    ("orders reject", &[("kvmpilot orders reject 12", "do not, and do not ask again for a while")]),
    ("orders rollback", &[("kvmpilot orders rollback 12", "put back what order 12 changed")]),
    (
        "orders export",
        &[
            ("kvmpilot orders export --since 24h", "the last day, one order a line"),
            ("kvmpilot orders export --state failed > failed.jsonl", "all that failed"),
        ],
    ),
    ("why", &[("kvmpilot why 12", "what was seen, which rule, what came of it")]),
    ("explain", &[("kvmpilot explain web", "what counts for web, who said so, what comes next")]),
    (
        "policy",
        &[
            ("kvmpilot policy show web", "what stands in its XML"),
            ("kvmpilot policy set web class=latency mode=auto", "somebody waits for its answers"),
        ],
    ),
    ("policy show", &[("kvmpilot policy show web", "in the running domain and in the stored one")]),
    (
        "policy set",
        &[
            ("kvmpilot policy set web class=latency mode.balloon=observe", "two settings"),
            ("kvmpilot policy set batch class=batch weight.min=64", "it may go down to 64"),
        ],
    ),
    (
        "policy unset",
        &[
            ("kvmpilot policy unset web mode.balloon", "one setting"),
            ("kvmpilot policy unset web --all", "everything"),
        ],
    ),
    ("restore", &[("kvmpilot restore", "every value as it was, and nothing more is changed")]),
    (
        "doctor",
        &[
            ("kvmpilot doctor", "all checks, also without the daemon"),
            ("kvmpilot doctor --config /tmp/new.toml", "with a configuration that is not in force yet"),
        ],
    ),
    ("record", &[("kvmpilot record evening.rec --for 2h", "two hours into evening.rec")]),
    (
        "replay",
        &[
            ("kvmpilot replay evening.rec", "what was wanted, and when"),
            ("kvmpilot replay evening.rec --config other.toml", "what would be with other settings"),
        ],
    ),
    (
        "simulate",
        &[
            ("kvmpilot simulate scenarios/overcommit.toml", "with the built-in policy"),
            ("kvmpilot simulate scenarios/diurnal.toml --hours 48 --config other.toml", "with another one"),
        ],
    ),
    (
        "rules",
        &[
            ("kvmpilot rules", "the rules in force, and how often each held"),
            ("kvmpilot rules check /etc/kvmpilot/rules.d/own.toml", "whether a file is right"),
        ],
    ),
    ("rules list", &[("kvmpilot rules list --json", "for a script")]),
    ("rules show", &[("kvmpilot rules show > own.toml", "the shipped rules, to copy from")]),
    ("rules check", &[("kvmpilot rules check /etc/kvmpilot/rules.d/own.toml", "syntax, names, types")]),
    (
        "rules test",
        &[("kvmpilot rules test own.toml --against evening.rec", "what would have been different")],
    ),
    (
        "services",
        &[
            ("kvmpilot services", "all services and their states"),
            ("kvmpilot services shop", "one of them, part by part"),
        ],
    ),
    ("service", &[("kvmpilot service template > /etc/kvmpilot/services.d/shop.toml", "one to fill in")]),
    (
        "service learn",
        &[(
            "kvmpilot service learn shop --from web db --output shop.toml",
            "what runs and talks now between web and db",
        )],
    ),
    ("service template", &[("kvmpilot service template", "a commented one to fill in")]),
    (
        "token",
        &[
            ("kvmpilot token create ci --valid 90d", "a token for reading, good for 90 days"),
            ("kvmpilot token list", "who has one"),
        ],
    ),
    (
        "token create",
        &[
            ("kvmpilot token create ci --valid 90d", "for reading, good for 90 days"),
            ("kvmpilot token create console --may-change", "for changes, too, until it is revoked"),
        ],
    ),
    ("token list", &[("kvmpilot token list", "names, rights, and until when they are good")]),
    ("token revoke", &[("kvmpilot token revoke ci", "it is no good any more")]),
    (
        "completions",
        &[
            (
                "kvmpilot completions bash > /usr/share/bash-completion/completions/kvmpilot",
                "for everybody who uses bash",
            ),
            ("kvmpilot completions fish > ~/.config/fish/completions/kvmpilot.fish", "for yourself"),
        ],
    ),
    ("version", &[("kvmpilot version --json", "for a script")]),
];

/// Examples of the command of these words.
pub(super) fn of(path: &str) -> &'static [(&'static str, &'static str)] {
    EXAMPLES.iter().find(|(of, _)| *of == path).map_or(&[], |(_, examples)| examples)
}

/// Ends the help of the command and of all below it with examples and exit codes.
pub(super) fn add(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = names.into_iter().fold(command, |command, name| {
        let below = format!("{path} {name}");
        command.mut_subcommand(name, |sub| add(sub, below.trim_start()))
    });
    let mut text = String::new();
    for (line, what) in of(path) {
        let head = if text.is_empty() { "Examples:\n" } else { "" };
        text.push_str(&format!("{head}  {line}\n      {what}\n"));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str("Exit codes:\n");
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("  {code}  {meaning}\n"));
    }
    command.after_help(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::*;

    /// The words of all commands that people may use.
    fn visible(command: &Command, path: &str) -> Vec<String> {
        let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let below = subs.flat_map(|sub| visible(sub, format!("{path} {}", sub.get_name()).trim_start()));
        std::iter::once(path.to_owned()).chain(below).collect()
    }

    #[test]
    fn every_command_has_examples_and_no_other_has() {
        let mut commands = visible(&command(), "");
        let mut with_examples: Vec<String> = EXAMPLES.iter().map(|(path, _)| (*path).to_owned()).collect();
        commands.sort();
        with_examples.sort();
        assert_eq!(with_examples, commands);
    }

    #[test]
    fn examples_are_understood_and_fit() {
        for (path, examples) in EXAMPLES {
            assert!(!examples.is_empty(), "{path}");
            for (line, what) in *examples {
                assert!(line.len() <= 78 && what.len() <= 74, "{line}: {what}");
                let own = line.split(['|', '>']).next().unwrap();
                let words: Vec<&str> = own.split_whitespace().collect();
                if let Err(error) = command().try_get_matches_from(&words) {
                    panic!("{line}: {error}");
                }
                assert!(line.starts_with(format!("kvmpilot {path}").trim_end()), "{line} is not of {path}");
            }
        }
    }

    #[test]
    fn help_ends_with_examples_and_exit_codes() {
        let mut command = command();
        command.build();
        let orders = command.find_subcommand_mut("orders").unwrap();
        for help in [orders.render_help().to_string(), orders.render_long_help().to_string()] {
            assert!(
                help.contains("  kvmpilot orders approve 12 13\n      carry two of them out\n"),
                "{help}"
            );
            assert!(help.trim_end().ends_with("2  wrong usage; nothing was done"), "{help}");
        }
    }
}
