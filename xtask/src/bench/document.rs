//! `bench document`: docs/BENCHMARKS.md out of docs/benchmarks/: a text with places for figures, and the JSON of the runs that
//! they come from. No figure of theirs is written by hand.

mod parts;

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::workspace;
use serde_json::Value;

/// Whose figures there may be.
const BENCHES: [&str; 5] = ["contention", "memory", "guest-priority", "scale", "soak"];
/// Longest bar of a chart, in characters.
const BAR: f64 = 40.0;

fn directory() -> PathBuf {
    workspace().join("docs/benchmarks")
}

fn target() -> PathBuf {
    workspace().join("docs/BENCHMARKS.md")
}

/// Writes the document.
pub(super) fn run() -> Result<()> {
    fs::write(target(), document()?).context("cannot write docs/BENCHMARKS.md")
}

/// Each line `{{BENCH PART}}` of the text becomes that part of what BENCH.json says.
fn document() -> Result<String> {
    let file = directory().join("BENCHMARKS.in.md");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut document = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
            Some(place) => {
                document += &part(place).with_context(|| format!("{}:{number}", file.display()))?;
            }
            None => document += line,
        }
        document.push('\n');
    }
    Ok(document)
}

fn part(place: &str) -> Result<String> {
    let (bench, part) = place.split_once(' ').context("write {{BENCH PART}}")?;
    ensure!(BENCHES.contains(&bench), "there is no bench {bench}");
    let file = directory().join(format!("{bench}.json"));
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(not_measured(bench, part)),
        text => text.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let run: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    Ok(match (bench, part) {
        (_, "machine") => machine(&run)?,
        ("contention", "goals") => goals(
            &run,
            &[
                ("p99_vs_alone", "at most 1.25"),
                ("p99_vs_alone_of_others", ""),
                ("p99_ratio_vs_none", "at most 0.15"),
                ("p99_ratio_vs_static", ""),
                ("total_work_ratio_vs_none", "at least 0.97"),
                ("guest_cpu_ratio_vs_none", ""),
                ("reaction_s", "at most 5"),
                ("worst_phase_ratio_vs_none", "at most 1.05"),
                ("actions", ""),
            ],
        )?,
        ("contention", "table") => table(
            rows(&run, "rows")?,
            &[
                ("phase", "phase", 0),
                ("", "contestant", 0),
                ("p50 ms", "p50_ms", 0),
                ("p99 ms", "p99_ms", 0),
                ("p99.9 ms", "p999_ms", 0),
                ("requests/s", "requests_per_second", 0),
                ("wake-up p99 us", "wake_p99_us", 0),
                ("neighbours, units/s", "neighbours_units_per_second", 0),
                ("Jain", "fairness", 3),
                ("work to none", "work_ratio_vs_none", 3),
                ("to none", "ratio_vs_none", 3),
                ("reaction s", "reaction_s", 1),
                ("orders", "actions", 0),
            ],
        )?,
        ("contention", "chart") => chart(rows(&run, "rows")?, "phase", "contestant", "p99_ms", "ms")?,
        ("contention", "absent") => absent(&run)?,
        ("memory" | "guest-priority" | "scale" | "soak", part) => parts::part(bench, part, &run)?,
        _ => bail!("there is no part {part} of {bench}"),
    })
}

/// What stands in the place of figures that nobody has measured yet.
fn not_measured(bench: &str, part: &str) -> String {
    let command = if bench == "soak" { "soak --hours 1" } else { &format!("bench {bench}") };
    match part {
        "machine" => format!(
            "*Not measured yet: `cargo xtask {command} --json docs/benchmarks/{bench}.json`, then `cargo xtask bench document`.*"
        ),
        _ => String::new(),
    }
}

/// Where and when, in one sentence.
fn machine(run: &Value) -> Result<String> {
    let text = |key: &str| run[key].as_str().with_context(|| format!("no {key}"));
    let number = |key: &str| run[key].as_f64().with_context(|| format!("no {key}"));
    let seconds = run["unix_s"].as_i64().context("no unix_s")?;
    let guests = match text("accel")? {
        "" => String::new(),
        accel => format!(", guests under {}", accel.to_uppercase()),
    };
    Ok(format!(
        "`{}`: {} pcpus of {}, Linux {}{guests}, {}, load average {:.1} before.",
        text("command")?,
        number("pcpus")?,
        text("cpu")?,
        text("kernel")?,
        date(seconds)?,
        number("load_before")?
    ))
}

/// A moment in UTC, to the minute.
fn date(unix_s: i64) -> Result<String> {
    Ok(jiff::Timestamp::from_second(unix_s)?.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn rows<'a>(run: &'a Value, key: &str) -> Result<&'a [Value]> {
    run[key].as_array().map(Vec::as_slice).with_context(|| format!("no list {key}"))
}

fn show(value: &Value, digits: usize) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |number| format!("{number:.digits$}"))
        }
        other => other.to_string(),
    }
}

/// Columns are title, key of the row, digits behind the point.
fn table(rows: &[Value], columns: &[(&str, &str, usize)]) -> Result<String> {
    let mut text = String::new();
    let heads: Vec<&str> = columns.iter().map(|(title, ..)| *title).collect();
    writeln!(text, "| {} |", heads.join(" | "))?;
    let is_text = |key: &str| rows.first().is_some_and(|row| row[key].is_string());
    let lines: Vec<&str> =
        columns.iter().map(|(_, key, _)| if is_text(key) { "---" } else { "---:" }).collect();
    writeln!(text, "|{}|", lines.join("|"))?;
    for row in rows {
        for (_, key, _) in columns {
            ensure!(row.get(key).is_some(), "a row without {key}");
        }
        let cells: Vec<String> = columns.iter().map(|(_, key, digits)| show(&row[*key], *digits)).collect();
        writeln!(text, "| {} |", cells.join(" | "))?;
    }
    Ok(text.trim_end().to_owned())
}

/// A field of the report's head and its goal, a line each.
fn goals(run: &Value, goals: &[(&str, &str)]) -> Result<String> {
    let mut text = "| figure | measured | goal |\n|---|---:|---|\n".to_owned();
    for (key, goal) in goals {
        ensure!(run.get(key).is_some(), "no {key}");
        writeln!(text, "| `{key}` | {} | {goal} |", show(&run[*key], 3))?;
    }
    Ok(text.trim_end().to_owned())
}

/// Bars, grouped; rows without a value are left out.
fn chart(rows: &[Value], group: &str, name: &str, key: &str, unit: &str) -> Result<String> {
    let most = rows.iter().filter_map(|row| row[key].as_f64()).fold(0.0, f64::max);
    ensure!(most > 0.0, "nothing to draw");
    let mut groups: Vec<&str> = Vec::new();
    for row in rows {
        let group = row[group].as_str().with_context(|| format!("a row without {group}"))?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut text = "```text\n".to_owned();
    for title in groups {
        let mut shown = title;
        for row in rows.iter().filter(|row| row[group] == title) {
            let Some(value) = row[key].as_f64() else { continue };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to BAR")]
            let length = (value / most * BAR).round() as usize;
            let name = row[name].as_str().unwrap_or_default();
            writeln!(text, "{shown:<10} {name:<9} {} {value:.0} {unit}", "#".repeat(length.max(1)))?;
            shown = "";
        }
    }
    text += "```";
    Ok(text)
}

/// Who did not take part.
fn absent(run: &Value) -> Result<String> {
    let line = |pair: &Value| match (pair[0].as_str(), pair[1].as_str()) {
        (Some(name), Some(why)) => Ok(format!("* {name} did not take part: {why}.")),
        _ => bail!("{pair} is no name with a reason"),
    };
    let lines: Vec<String> = rows(run, "absent")?.iter().map(line).collect::<Result<_>>()?;
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_document_is_as_its_figures_are() {
        let known = fs::read_to_string(target()).unwrap();
        assert!(known == document().unwrap(), "run `cargo xtask bench document`");
    }

    #[test]
    fn tables_and_charts_show_what_is_there() {
        let rows =
            [json!({"name": "a", "phase": "p", "ms": 10.26}), json!({"name": "b", "phase": "p", "ms": null})];
        let columns = [("", "name", 0), ("ms", "ms", 1)];
        assert_eq!(table(&rows, &columns).unwrap(), "|  | ms |\n|---|---:|\n| a | 10.3 |\n| b | - |");
        assert!(table(&rows, &[("x", "x", 0)]).is_err());
        let drawn = chart(&rows, "phase", "name", "ms", "ms").unwrap();
        assert_eq!(drawn.lines().filter(|line| line.contains('#')).count(), 1);
        assert!(part("contention").is_err() && part("none machine").is_err());
        assert!(not_measured("soak", "machine").contains("xtask soak --hours 1 --json"));
    }
}
