//! The man pages of the commands and of the daemon.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::super::examples::{self, EXIT_CODES};
use super::super::kvmpilotd::DaemonArguments;
use super::options_page;
use super::roff::{section, tagged, text};

/// Every page: the file's name and what is in it.
pub(super) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = super::visible().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    commands(&root, "", &mut pages)?;
    pages.push(("kvmpilotd.8".to_owned(), daemon()?));
    pages.push(("kvmpilot.toml.5".to_owned(), options_page::page().into_bytes()));
    Ok(pages)
}

fn commands(command: &Command, path: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = format!("kvmpilot {path}").trim_end().replace(' ', "-");
    let mut page = body(command, &name, "1", "kvmpilot's commands")?;
    let mut more = section("EXAMPLES");
    for (line, what) in examples::of(path) {
        more.push_str(&tagged(line, what));
    }
    more.push_str(&exit_codes(&EXIT_CODES));
    let others: &[&str] = if path.is_empty() {
        &["kvmpilotd(8)", "kvmpilot.toml(5)"]
    } else {
        &["kvmpilot(1)", "kvmpilotd(8)", "kvmpilot.toml(5)"]
    };
    more.push_str(&see_also(others));
    page.extend(more.into_bytes());
    pages.push((format!("{name}.1"), page));
    for sub in command.get_subcommands() {
        commands(sub, format!("{path} {}", sub.get_name()).trim_start(), pages)?;
    }
    Ok(())
}

/// What clap knows.
fn body(command: &Command, name: &str, number: &str, manual: &str) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(number)
        // Of the same source the same page.
        .date("")
        .source(format!("kvmpilot {}", env!("CARGO_PKG_VERSION")))
        .manual(manual);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    Ok(page)
}

fn daemon() -> io::Result<Vec<u8>> {
    let mut command = DaemonArguments::command();
    command.build();
    let mut page = body(&command, "kvmpilotd", "8", "kvmpilot's daemon")?;
    let mut more = section("SIGNALS");
    more.push_str(&tagged(
        "SIGHUP",
        "reads the configuration again; with a mistake in it the last good one stays in force",
    ));
    more.push_str(&tagged("SIGTERM, SIGINT", "puts every value back and ends"));
    more.push_str(&section("FILES"));
    for (file, what) in [
        ("/etc/kvmpilot/kvmpilot.toml, /etc/kvmpilot/conf.d/*.toml", "the configuration, kvmpilot.toml(5)"),
        ("/etc/kvmpilot/rules.d/*.toml", "rules over the shipped ones"),
        ("/etc/kvmpilot/services.d/*.toml", "services"),
        ("/var/lib/kvmpilot", "history, work orders and the original values of everything that was changed"),
        ("/run/kvmpilot/kvmpilot.sock", "the API"),
    ] {
        more.push_str(&tagged(file, what));
    }
    more.push_str(&exit_codes(&[
        ("0", "it was told to end, and everything is back"),
        ("1", "it could not go on; standard error or the journal says why"),
        ("2", "wrong usage, or a mistake in the configuration"),
    ]));
    more.push_str(&see_also(&["kvmpilot(1)", "kvmpilot.toml(5)"]));
    page.extend(more.into_bytes());
    Ok(page)
}

fn exit_codes(codes: &[(&str, &str)]) -> String {
    codes.iter().fold(section("\"EXIT STATUS\""), |all, (code, meaning)| all + &tagged(code, meaning))
}

pub(super) fn see_also(pages: &[&str]) -> String {
    format!("{}{}\n", section("\"SEE ALSO\""), text(&pages.join(", ")))
}
