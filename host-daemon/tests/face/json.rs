//! docs/json.md: every command with `--json` stands there, with a schema and an example that is as the schema says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Command;
use kvmpilot::cli::command;

use crate::schema::validate;

fn docs(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Commands that do something themselves and print JSON if told so.
fn with_json(command: &Command, path: &str) -> Vec<String> {
    let subs = || command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
    let own = (has_json && !command.is_subcommand_required_set()).then(|| path.to_owned());
    own.into_iter()
        .chain(subs().flat_map(|sub| with_json(sub, &format!("{path} {}", sub.get_name()))))
        .collect()
}

/// Rows of the table: the command, and the names of its schemas with their examples.
fn documented() -> BTreeMap<String, Vec<(String, String)>> {
    let mut rows: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in docs("json.md").lines().filter(|line| line.starts_with("| `kvmpilot ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [command, schema, example] = cells[..] else { panic!("not three cells: {line}") };
        let name = command.trim_matches('`').split([' ']).take_while(|word| is_plain(word));
        let name = name.collect::<Vec<_>>().join(" ");
        let link = |cell: &str| cell.split_once("](").unwrap().1.split(')').next().unwrap().to_owned();
        rows.entry(name).or_default().push((link(schema), link(example)));
    }
    rows
}

/// Whether a word is the command's, and no argument.
fn is_plain(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase())
}

#[test]
fn every_command_with_json_is_documented() {
    let mut command = command();
    command.build();
    let known = with_json(&command, "kvmpilot");
    assert!(known.len() > 20, "{known:?}");
    let documented = documented();
    for command in &known {
        assert!(documented.contains_key(command), "{command} is missing in docs/json.md");
    }
    for command in documented.keys() {
        assert!(known.contains(command), "docs/json.md has {command}, which has no --json");
    }
}

#[test]
fn documented_examples_are_as_their_schemas_say() {
    for (command, shapes) in documented() {
        for (schema, example) in shapes {
            let name = schema.strip_prefix("schema/").and_then(|name| name.strip_suffix(".schema.json"));
            let name = name.unwrap_or_else(|| panic!("{command}: {schema} is no schema"));
            let example = docs(&example);
            if let Err(reasons) = validate(name, &example) {
                panic!("{command}: its example is no {name}: {reasons}");
            }
        }
    }
}

#[test]
fn exit_codes_are_documented_as_help_says() {
    let (help, docs) = (command().render_help().to_string(), docs("json.md"));
    for code in ["0", "1", "2"] {
        let start = format!("  {code}  ");
        let meaning = help.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        assert!(docs.contains(&format!("| {code} | {meaning} |")), "{code}: {meaning}");
    }
}
