//! kvmpilot.toml(5), from the comments of the shipped configuration file, which names every option at its default.

use super::man::see_also;
use super::roff::{section, text, verbatim};

const CONFIGURATION: &str = include_str!("../../../../systemd/kvmpilot.toml");

/// The page.
pub(super) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH KVMPILOT.TOML 5 \"\" \"kvmpilot {version}\" \"kvmpilot's files\"\n");
    page.push_str(&section("NAME"));
    page.push_str("kvmpilot.toml \\- configuration of kvmpilotd\n");
    page.push_str(&section("DESCRIPTION"));
    let mut in_options = false;
    for block in CONFIGURATION.split("\n\n") {
        let mut lines: Vec<&str> = block.lines().collect();
        if let Some(name) = lines.first().filter(|line| line.starts_with('[')) {
            if !in_options {
                page.push_str(&section("OPTIONS"));
                in_options = true;
            }
            page.push_str(&format!(".SS {}\n", text(name)));
            lines.remove(0);
        }
        page.push_str(&entry(&lines));
    }
    page + &see_also(&["kvmpilotd(8)", "kvmpilot(1)"])
}

/// Options that stand together, and what is said about them.
fn entry(lines: &[&str]) -> String {
    let (options, comments): (Vec<&str>, Vec<&str>) = lines.iter().copied().partition(|line| is_option(line));
    let mut entry = String::new();
    for (index, option) in options.iter().enumerate() {
        let tag = if index == 0 { ".TP" } else { ".TQ" };
        let (name, value) = option.trim_start_matches('#').split_once(" = ").unwrap_or((option, ""));
        entry.push_str(&format!("{tag}\n\\fB{}\\fR = {}\n", text(name), text(value)));
    }
    if options.is_empty() && !comments.is_empty() {
        entry.push_str(".PP\n");
    }
    let comments: Vec<&str> = comments.iter().map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
    // What is set off by more than one space stands as it is.
    for group in comments.chunk_by(|a, b| is_set_off(a) == is_set_off(b)) {
        if is_set_off(group[0]) {
            let lines: Vec<&str> = group.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
            entry.push_str(&verbatim(&lines));
        } else {
            for line in group.iter().map(|line| line.trim()) {
                let gap = if options.is_empty() { ".PP" } else { ".IP" };
                entry.push_str(&(if line.is_empty() { gap.to_owned() } else { text(line) } + "\n"));
            }
        }
    }
    entry
}

/// `#key = value`: an option at its default.
fn is_option(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn is_set_off(comment: &str) -> bool {
    comment.starts_with("  ")
}
