//! Text as troff wants it.

/// A line of text that is only text: nothing in it is an instruction, and a hyphen can be copied.
pub(super) fn text(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Lines as they stand.
pub(super) fn verbatim(lines: &[&str]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| text(line)).collect();
    format!(".EX\n{}\n.EE\n", lines.join("\n"))
}

/// A heading.
pub(super) fn section(title: &str) -> String {
    format!(".SH {title}\n")
}

/// What something is called, and what there is to say about it.
pub(super) fn tagged(tag: &str, what: &str) -> String {
    format!(".TP\n\\fB{}\\fR\n{}\n", text(tag), text(what))
}
