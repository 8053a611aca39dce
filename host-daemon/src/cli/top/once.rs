//! One frame as plain text.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::draw;
use super::state::State;
use super::theme::Theme;

/// More lines are cut, and that is said.
const MOST_LINES: usize = 5000;

pub(super) fn frame(state: &State, width: u16) -> String {
    let lines = draw::everything(state, Theme { colour: false }, width);
    let mut text = String::new();
    let row = Rect { x: 0, y: 0, width, height: 1 };
    for line in lines.iter().take(MOST_LINES) {
        let mut buffer = Buffer::empty(row);
        draw::put(&mut buffer, row, std::iter::once(line));
        text.push_str(line_of(&buffer, 0).trim_end());
        text.push('\n');
    }
    if lines.len() > MOST_LINES {
        text.push_str(&format!("and {} lines more\n", lines.len() - MOST_LINES));
    }
    text
}

/// One line of a buffer as the terminal would show it.
pub(super) fn line_of(buffer: &Buffer, y: u16) -> String {
    let mut text = String::new();
    let mut x = 0;
    while x < buffer.area.width {
        let symbol = buffer[(x, y)].symbol();
        text.push_str(symbol);
        // A wide character stands on the cell after it, too.
        x += u16::try_from(ratatui::text::Span::raw(symbol).width()).unwrap_or(1).max(1);
    }
    text
}
