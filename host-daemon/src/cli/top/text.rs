//! Texts that fit: cells of a width, and lines made of them.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::page::printable;

/// No more of a text is looked at; a guest may send long ones.
const LONGEST: usize = 600;

/// A text and how it looks.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) style: Style,
}

impl Cell {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::styled(text, Style::new())
    }

    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: clean(&text.into()), style }
    }
}

/// A column of a table: its title, how wide, and which way it is aligned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: u16,
    pub(super) right: bool,
}

impl Column {
    pub(super) const fn left(title: &'static str, width: u16) -> Self {
        Self { title, width, right: false }
    }

    pub(super) const fn right(title: &'static str, width: u16) -> Self {
        Self { title, width, right: true }
    }
}

/// A row of a table. What does not fit is cut; the last column has all that is left.
pub(super) fn row(columns: &[Column], cells: Vec<Cell>, width: u16) -> Line<'static> {
    let mut left = usize::from(width);
    let mut spans = Vec::with_capacity(cells.len() * 2);
    let last = columns.len().saturating_sub(1);
    for (index, (column, cell)) in columns.iter().zip(cells).enumerate() {
        let (wide, gap) = if index == last && !column.right {
            (left, 0)
        } else {
            (usize::from(column.width).min(left), usize::from(index != last))
        };
        let text = cut(&cell.text, wide);
        let room = " ".repeat(wide - Span::raw(&text).width());
        let text = if column.right { room + &text } else { text + &room };
        left -= wide;
        spans.push(Span::styled(text, cell.style));
        if left >= gap && gap > 0 {
            spans.push(Span::raw(" "));
            left -= gap;
        }
    }
    Line::from(spans)
}

/// Titles of a table.
pub(super) fn titles(columns: &[Column], style: Style, width: u16) -> Line<'static> {
    row(columns, columns.iter().map(|column| Cell::styled(column.title, style)).collect(), width)
}

/// Text of others, made printable and not too long.
pub(super) fn clean(text: &str) -> String {
    let one = |c: char| match c {
        // Keeps numbers and units together where lines are wrapped; here nothing is.
        '\u{a0}' => ' ',
        // They change the width of what is before them, and terminals disagree about it.
        '\u{fe00}'..='\u{fe0f}' | '\u{2061}'..='\u{2064}' => '\u{fffd}',
        c => printable(c),
    };
    text.chars().take(LONGEST).map(one).collect()
}

/// As much of a text as so many columns of the terminal hold; a `~` says that there is more.
pub(super) fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut text: String = text.chars().take(width).collect();
    while Span::raw(&text).width() + 1 > width && text.pop().is_some() {}
    if width > 0 {
        text.push('~');
    }
    text
}
