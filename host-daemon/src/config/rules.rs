//! Rule files: found, read and put over the shipped rules. What is wrong in them is shown like mistakes in the
//! configuration.

use std::io::Read;
use std::path::{Path, PathBuf};

use kvmpilot_core::rules::{self, Entry, Fault, RuleSet};

use super::diagnostic::{Diagnostic, Source};
use super::{ConfigError, toml_files};

/// Largest rule file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// More than an administrator mends at once.
const MAX_DIAGNOSTICS: usize = 20;

/// The shipped rules with the `*.toml` files of a directory over them, later names over earlier ones. No directory is no
/// file.
///
/// # Errors
/// When a file cannot be read or anything in one is wrong.
pub fn load_rules(directory: &Path) -> Result<RuleSet, ConfigError> {
    let files =
        toml_files(directory).map_err(|source| ConfigError::Read { path: directory.to_owned(), source })?;
    read_rules(&files)
}

/// The shipped rules with these files over them, later ones over earlier ones.
///
/// # Errors
/// When a file cannot be read or anything in one is wrong.
pub fn read_rules(files: &[PathBuf]) -> Result<RuleSet, ConfigError> {
    let mut sources = Vec::new();
    for path in files {
        sources.push(source(path)?);
    }
    let mut wrong = Vec::new();
    let mut layers: Vec<Vec<Entry>> = Vec::new();
    for source in &sources {
        match rules::read(&source.text, &source.path.display().to_string()) {
            Ok(entries) => layers.push(entries),
            Err(faults) => wrong.extend(faults.into_iter().map(|fault| diagnostic(source, fault))),
        }
    }
    if wrong.is_empty() {
        match RuleSet::with_files(layers) {
            Ok(rules) => return Ok(rules),
            Err(faults) => {
                let at = |(at, fault): (usize, Fault)| Some(diagnostic(sources.get(at)?, fault));
                wrong.extend(faults.into_iter().filter_map(at));
            }
        }
    }
    wrong.truncate(MAX_DIAGNOSTICS);
    Err(ConfigError::Invalid(wrong))
}

/// The rules of one file, to be put over others.
///
/// # Errors
/// When the file cannot be read or anything in it is wrong.
pub fn read_entries(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let source = source(path)?;
    rules::read(&source.text, &source.path.display().to_string()).map_err(|faults| {
        ConfigError::Invalid(
            faults.into_iter().take(MAX_DIAGNOSTICS).map(|fault| diagnostic(&source, fault)).collect(),
        )
    })
}

fn diagnostic(source: &Source, fault: Fault) -> Diagnostic {
    Diagnostic::new(source, fault.span, fault.message, fault.help)
}

fn source(path: &Path) -> Result<Source, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let broken = |what: &str| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned()));
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(broken("it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| broken("it is not text in UTF-8"))?;
    Ok(Source { path: path.to_owned(), text })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(texts: &[&str]) -> Result<RuleSet, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        for (n, text) in texts.iter().enumerate() {
            fs::write(directory.path().join(format!("{n}.toml")), text).unwrap();
        }
        load_rules(directory.path())
    }

    #[test]
    fn later_files_replace_rules_by_name_and_switch_them_off() {
        let rules = load(&[
            "[[rule]]\nname = \"weight.yield\"\nwhen = \"true\"\nthen = { weight = \"yield\" }\n",
            "[[rule]]\nname = \"weight.yield\"\nwhen = \"false\"\nthen = { weight = \"yield\" }\n\
             [[rule]]\nname = \"ladder.lower\"\nenabled = false\n",
        ])
        .unwrap();
        assert_eq!(rules.get("weight.yield").unwrap().when.text(), "false");
        assert!(rules.get("weight.yield").unwrap().source.ends_with("1.toml"));
        assert!(rules.get("ladder.lower").is_none());
        assert_eq!(rules.iter().count(), RuleSet::default().iter().count() - 1);
        assert_eq!(load_rules(Path::new("/nonexistent/rules.d")).unwrap(), RuleSet::default());
    }

    #[test]
    fn a_mistake_is_shown_in_its_line_of_the_file() {
        let text = "[[rule]]\nname = \"mine\"\nwhen = '''\ndomain.cpu.use > 0.5\n&& domain.cpu.wait_ration > 0.1\n'''\n\
                    then = { weight = \"protect\" }\n";
        let Err(ConfigError::Invalid(wrong)) = load(&[text]) else { panic!("not refused") };
        let shown = wrong[0].to_string();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(shown.contains("0.toml:5:4: there is no field domain.cpu.wait_ration\n"), "{shown}");
        assert!(shown.contains("5 | && domain.cpu.wait_ration > 0.1\n"), "{shown}");
        assert!(shown.contains("  |    ^^^^^^^^^^^^^^^^^^^^^^\n"), "{shown}");
        assert!(shown.contains("did you mean domain.cpu.wait_ratio?"), "{shown}");
        let off = "[[rule]]\nname = \"weight.yeild\"\nenabled = false\n";
        let Err(ConfigError::Invalid(wrong)) = load(&[off]) else { panic!("not refused") };
        assert!(wrong[0].to_string().contains("did you mean weight.yield?"), "{}", wrong[0]);
    }

    /// The table of variables in docs/rules.md.
    fn table() -> String {
        let mut table = "\n| variable | type | meaning |\n|---|---|---|\n".to_owned();
        for field in rules::fields() {
            table += &format!("| `{}` | {} | {} |\n", field.path, field.kind, field.meaning);
            if let rules::Kind::Records(columns) = field.kind {
                for (name, meaning) in columns {
                    table += &format!("| `v.{name}` | number | in `{}`: {meaning} |\n", field.path);
                }
            }
        }
        table
    }

    #[test]
    fn every_variable_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules.md");
        let text = fs::read_to_string(path).unwrap();
        let (head, documented) = text.split_once("writes this table. -->\n").unwrap();
        if std::env::var_os("KVMPILOT_WRITE_SCHEMAS").is_some() {
            fs::write(path, format!("{head}writes this table. -->\n{}", table())).unwrap();
            return;
        }
        assert_eq!(documented, table(), "KVMPILOT_WRITE_SCHEMAS=1 writes it anew");
        for (means, key, word, _) in rules::Means::ALL {
            assert!(head.contains(&format!("`{key}`")) && head.contains(word), "{means:?}");
        }
    }

    #[test]
    fn each_group_has_fields_and_each_field_a_group() {
        for group in rules::groups() {
            assert!(
                rules::fields().iter().any(|field| field.path.starts_with(&format!("{group}."))),
                "{group}"
            );
        }
        for field in rules::fields() {
            assert!(
                rules::groups().any(|group| field.path.starts_with(&format!("{group}."))),
                "{}",
                field.path
            );
        }
    }
}
