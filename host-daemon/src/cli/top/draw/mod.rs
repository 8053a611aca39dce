//! A frame from a [`State`], into a buffer of cells: the same for the terminal, for `--once` and for tests.

mod head;
mod help;
mod list;
mod page;
mod process;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::state::State;
use super::text::clean;
use super::theme::Theme;

/// From this height on, the list has the selected domain's page below it.
const TALL: u16 = 34;

/// Draws a frame for a person, who can move about in it.
pub(super) fn screen(state: &mut State, theme: Theme, buffer: &mut Buffer) {
    let area = buffer.area;
    let head = head::lines(state, theme);
    let room = area.height.saturating_sub(1);
    let used = put(buffer, Rect { height: room, ..area }, head.iter());
    let body = Rect { y: area.y + used, height: room - used, ..area };
    let foot = if state.help {
        put(buffer, body, help::lines(theme).iter());
        "any key goes back"
    } else if state.open.is_some() {
        full_page(state, theme, body, buffer);
        "Esc back  Tab next part  Up/Down/PgUp/PgDn scroll  ? help  q quit"
    } else if area.height >= TALL {
        list_and_page(state, theme, body, buffer);
        "Enter look into  / filter  < > sort by  r reverse  ? help  q quit"
    } else {
        list::draw(state, theme, body, buffer);
        "Enter look into  / filter  < > sort by  r reverse  ? help  q quit"
    };
    let foot = match &state.editing {
        Some(_) => Line::from(vec![
            Span::styled("filter: ", theme.title()),
            Span::raw(clean(&state.filter)),
            Span::styled(" ", theme.selected()),
            Span::styled("  Enter keeps it, Esc does not", theme.quiet()),
        ]),
        None => Line::styled(foot, theme.quiet()),
    };
    let last = Rect { y: area.y + room, height: area.height - room, ..area };
    put(buffer, last, std::iter::once(&foot));
}

fn full_page(state: &mut State, theme: Theme, body: Rect, buffer: &mut Buffer) {
    let page = page::page(state, theme, body.width);
    state.seen.fit = usize::from(body.height);
    state.seen.lines = page.lines.len();
    state.seen.sections = page.sections;
    // A page may have become shorter.
    state.offset = state.offset.min(state.seen.lines.saturating_sub(state.seen.fit));
    put(buffer, body, page.lines.iter().skip(state.offset));
}

fn list_and_page(state: &mut State, theme: Theme, body: Rect, buffer: &mut Buffer) {
    let rows = u16::try_from(state.rows().len()).unwrap_or(u16::MAX);
    let height = rows.saturating_add(list::ABOVE).clamp(8, body.height / 2);
    list::draw(state, theme, Rect { height, ..body }, buffer);
    let below = Rect { y: body.y + height, height: body.height - height, ..body };
    let page = page::page(state, theme, below.width);
    let ruler = Line::styled("-".repeat(usize::from(below.width)), theme.quiet());
    put(buffer, below, std::iter::once(&ruler).chain(&page.lines));
}

/// The whole of what there is to show, for `--once`.
pub(super) fn everything(state: &State, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let mut lines = head::lines(state, theme);
    if state.open.is_some() {
        lines.extend(page::page(state, theme, width).lines);
    } else {
        lines.extend(list::lines(state, theme, width));
    }
    lines
}

/// Puts lines below each other, as many as fit, and says how many those are.
pub(super) fn put<'a>(
    buffer: &mut Buffer,
    area: Rect,
    lines: impl Iterator<Item = &'a Line<'static>>,
) -> u16 {
    let mut used = 0;
    for line in lines.take(usize::from(area.height)) {
        buffer.set_line(area.x, area.y + used, line, area.width);
        used += 1;
    }
    used
}
