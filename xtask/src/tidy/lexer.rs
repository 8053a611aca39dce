//! Splits a Rust source, line by line, into code and string literals; comments go. Just enough of a lexer for `rules`.

/// What one line of a source holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Code, with each literal's content left out.
    pub(super) code: String,
    /// Contents of the string literals that begin in this line.
    pub(super) strings: Vec<String>,
    /// Whether the line belongs to a test: everything from `#[cfg(test)]` on.
    pub(super) test: bool,
}

/// Reads a whole source.
pub(super) fn lines(source: &str) -> Vec<Line> {
    let mut lines = vec![Line::default()];
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            let length = block_comment(rest);
            new_lines(&mut lines, &rest[..length]);
            length
        } else if let Some((length, content)) = string(rest, &lines) {
            push(&mut lines, '"');
            if let Some(line) = lines.last_mut() {
                line.strings.push(content.to_owned());
            }
            new_lines(&mut lines, &rest[..length]);
            length
        } else if let Some(length) = character(rest) {
            push(&mut lines, '\'');
            length
        } else if next == '\n' {
            lines.push(Line::default());
            1
        } else {
            push(&mut lines, next);
            next.len_utf8()
        };
        rest = &rest[taken..];
    }
    let tests = lines.iter().position(|line| line.code.trim_start().starts_with("#[cfg(test)]"));
    if let Some(first) = tests {
        lines[first..].iter_mut().for_each(|line| line.test = true);
    }
    lines
}

fn push(lines: &mut [Line], c: char) {
    if let Some(line) = lines.last_mut() {
        line.code.push(c);
    }
}

fn new_lines(lines: &mut Vec<Line>, text: &str) {
    lines.extend(text.matches('\n').map(|_| Line::default()));
}

/// Length of a comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length and content of the string literal at the start of `text`: "..", b"..", c"..", r#".."#.
fn string<'a>(text: &'a str, before: &[Line]) -> Option<(usize, &'a str)> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    // In `expr"` the r belongs to a word (which no valid source has, but a macro's tokens might).
    let in_word =
        before.last().is_some_and(|line| line.code.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
    if prefix > 2 || (prefix > 0 && in_word) {
        return None;
    }
    let raw = text[..prefix].contains('r');
    let body = &text[prefix..];
    let hashes = if raw { body.len() - body.trim_start_matches('#').len() } else { 0 };
    let body = body[hashes..].strip_prefix('"')?;
    let start = prefix + hashes + 1;
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body.find(&end).unwrap_or(body.len());
        return Some(((start + length + end.len()).min(text.len()), &body[..length]));
    }
    let mut escaped = false;
    let end = body.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let length = end.unwrap_or(body.len());
    Some(((start + length + 1).min(text.len()), &body[..length]))
}

/// Length of the character literal at the start of `text`; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        // The quote of '\'' is not the end.
        return body[2..].find('\'').map(|at| at + 4);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_strings_are_told_apart() {
        let source = "let a = \"x // y\"; // unsafe\n/* unsafe\n/* */ */ fn f<'a>(c: char) { c == '\"' || c == '\\'' }\n\
                      let r = r#\"a \"quoted\" b\"#;\nlet m = \"one\ntwo\"; end\n#[cfg(test)]\nmod tests";
        let lines = lines(source);
        let code: Vec<_> = lines.iter().map(|line| line.code.trim()).collect();
        assert_eq!(
            code,
            [
                "let a = \";",
                "",
                "fn f<'a>(c: char) { c == ' || c == ' }",
                "let r = \";",
                "let m = \"",
                "; end",
                "#[cfg(test)]",
                "mod tests"
            ]
        );
        assert_eq!(lines[0].strings, ["x // y"]);
        assert_eq!(lines[3].strings, ["a \"quoted\" b"]);
        assert_eq!(lines[4].strings, ["one\ntwo"]);
        assert_eq!(lines.iter().map(|line| line.test).collect::<Vec<_>>()[5..], [false, true, true]);
    }
}
