//! What goes to the terminal: lines and tables that fit it, colours where they are wanted, nothing that a guest could
//! have smuggled in.

use std::env;
use std::io::{IsTerminal, stdout};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};

// Characters of no width that stand for colours until the page is finished, so that tables are laid out as if there
// were none: comfy-table without its terminal feature knows no colours.
const RED: char = '\u{2061}';
const YELLOW: char = '\u{2062}';
const GREEN: char = '\u{2063}';
const PLAIN: char = '\u{2064}';

/// Keeps a number and its unit on one line; a plain space when the page is finished.
pub(super) const NO_BREAK: char = '\u{a0}';

/// What the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Columns; `None` where there is no terminal and lines may be as long as they are.
    pub(super) width: Option<u16>,
    pub(super) colour: bool,
}

impl Screen {
    pub(super) fn of_stdout() -> Self {
        let terminal = stdout().is_terminal();
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            width: terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| width.0),
            colour: terminal && !set("NO_COLOR") && !dumb,
        }
    }
}

pub(super) fn good(text: &str) -> String {
    format!("{GREEN}{text}{PLAIN}")
}

pub(super) fn doubtful(text: &str) -> String {
    format!("{YELLOW}{text}{PLAIN}")
}

pub(super) fn bad(text: &str) -> String {
    format!("{RED}{text}{PLAIN}")
}

/// A page under construction.
pub(super) struct Page {
    screen: Screen,
    text: String,
}

impl Page {
    pub(super) const fn new(screen: Screen) -> Self {
        Self { screen, text: String::new() }
    }

    /// One line. Line ends in it are shown as foreign characters, because a guest could fake output with them.
    pub(super) fn line(&mut self, text: &str) {
        self.text.extend(text.chars().map(printable));
        self.text.push('\n');
    }

    /// An empty line and a heading.
    pub(super) fn heading(&mut self, text: &str) {
        self.text.push('\n');
        self.line(text);
    }

    /// Names and what there is to say about each.
    pub(super) fn facts<'a>(&mut self, facts: impl IntoIterator<Item = (&'a str, String)>) {
        let rows = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        self.rows(None, rows, None);
    }

    /// A table. Columns whose title begins with `>` are aligned to the right; those whose title begins with `~` are
    /// wrapped where the terminal is too narrow.
    pub(super) fn table(&mut self, titles: &[&str], rows: Vec<Vec<String>>) {
        self.rows(Some(titles), rows, None);
    }

    /// The same, but on a terminal each row is cut after three lines. JSON has the rest.
    pub(super) fn dense_table(&mut self, titles: &[&str], rows: Vec<Vec<String>>) {
        self.rows(Some(titles), rows, self.screen.width.and(Some(3)));
    }

    fn rows(&mut self, titles: Option<&[&str]>, rows: Vec<Vec<String>>, lines: Option<usize>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = self.screen.width {
            table.set_width(width);
        }
        if let Some(titles) = titles {
            table.set_header(titles.iter().map(|title| title.trim_start_matches(['>', '~'])));
        }
        for row in rows {
            let mut row = Row::from(row.iter().map(|cell| cell.chars().map(printable).collect::<String>()));
            if let Some(lines) = lines {
                row.max_height(lines);
            }
            table.add_row(row);
        }
        // On less than 80 columns everything has to wrap.
        let keep_words = self.screen.width.is_some_and(|width| width >= 80);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            let title = titles.and_then(|titles| titles.get(index));
            if title.is_some_and(|title| title.starts_with('>')) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if keep_words && title.is_some_and(|title| !title.starts_with('~')) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        for line in table.lines() {
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    /// The page with its colours, or without.
    pub(super) fn finish(self) -> String {
        let mut text = String::with_capacity(self.text.len());
        for c in self.text.chars() {
            let code = match c {
                RED => "\u{1b}[31m",
                YELLOW => "\u{1b}[33m",
                GREEN => "\u{1b}[32m",
                PLAIN => "\u{1b}[0m",
                NO_BREAK => " ",
                _ => {
                    text.push(c);
                    continue;
                }
            };
            if self.screen.colour || c == NO_BREAK {
                text.push_str(code);
            }
        }
        text
    }
}

/// Names and command lines come from guests: no character of theirs may steer the terminal or reverse the text.
pub(super) fn printable(c: char) -> char {
    match c {
        RED | YELLOW | GREEN | PLAIN | NO_BREAK => c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}
