//! What is looked at, and what keys do about it. Pure: no terminal, no daemon, no clock.

use std::cmp::Ordering;

use kvmpilot_core::Uuid;

use super::moment::{Focus, Moment};
use super::options::Sort;
use crate::api::views::DomainView;

/// Longest filter.
const FILTER: usize = 60;

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

/// What the loop has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Draw,
    /// Ask the daemon now: something else is looked at.
    Ask,
    Quit,
}

/// Everything that a frame shows follows from this.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) moment: Option<Moment>,
    /// Why the last question had no answer.
    pub(super) trouble: Option<String>,
    pub(super) now_unix_ms: u64,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    /// The filter before it was edited, while it is.
    pub(super) editing: Option<String>,
    pub(super) selected: Option<Uuid>,
    /// The domain that is looked into, by what it was named.
    pub(super) open: Option<String>,
    pub(super) help: bool,
    /// First row or line that is shown.
    pub(super) offset: usize,
    pub(super) seen: Seen,
}

/// What the last frame held; the next key may depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Rows or lines that fit.
    pub(super) fit: usize,
    /// Lines of the page.
    pub(super) lines: usize,
    /// Where the page's sections begin.
    pub(super) sections: Vec<usize>,
}

impl State {
    pub(super) fn new(sort: Sort, filter: &str, open: Option<String>) -> Self {
        Self {
            moment: None,
            trouble: None,
            now_unix_ms: 0,
            sort,
            reversed: false,
            filter: filter.to_owned(),
            editing: None,
            selected: None,
            open,
            help: false,
            offset: 0,
            seen: Seen::default(),
        }
    }

    /// Takes what the daemon said, or why it said nothing: then the last figures stay, and are called old.
    pub(super) fn take(&mut self, answer: Result<Moment, String>) {
        match answer {
            Ok(moment) => (self.moment, self.trouble) = (Some(moment), None),
            Err(why) => self.trouble = Some(why),
        }
    }

    /// The domain that the next question is also about: the open one, else the selected one.
    pub(super) fn wants(&self) -> Option<String> {
        self.open.clone().or_else(|| self.selected_row().map(|row| row.uuid.to_string()))
    }

    /// What is known of the domain that is looked into; nothing before the first answer.
    pub(super) fn focus(&self) -> Option<&Focus> {
        let asked = self.wants()?;
        self.moment.as_ref()?.focus.as_ref().filter(|focus| focus.asked == asked)
    }

    /// The domains that pass the filter, in their order.
    pub(super) fn rows(&self) -> Vec<&DomainView> {
        let Some(moment) = &self.moment else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<_> = moment.domains.iter().filter(|row| passes(row, &wanted)).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Name => a.name.cmp(&b.name),
                sort => largest_first(figure(moment, a, sort), figure(moment, b, sort), self.reversed),
            };
            let order = if self.reversed && self.sort == Sort::Name { order.reverse() } else { order };
            order.then_with(|| a.name.cmp(&b.name))
        });
        rows
    }

    /// Where the selection is: the first row, unless a selected one is there.
    pub(super) fn selection(&self, rows: &[&DomainView]) -> usize {
        rows.iter().position(|row| Some(row.uuid) == self.selected).unwrap_or(0)
    }

    fn selected_row(&self) -> Option<&DomainView> {
        let rows = self.rows();
        rows.get(self.selection(&rows)).copied()
    }

    /// Does what a key is for.
    pub(super) fn press(&mut self, key: Key) -> Effect {
        if self.editing.is_some() {
            return self.edit(key);
        }
        if self.help {
            self.help = false;
            return if key == Key::Char('q') { Effect::Quit } else { Effect::Draw };
        }
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Char('?' | 'h') => self.help = true,
            Key::Char(' ') => return Effect::Ask,
            _ if self.open.is_some() => return self.press_in_page(key),
            Key::Char('/') => self.editing = Some(self.filter.clone()),
            Key::Char('r') => self.reversed = !self.reversed,
            Key::Char('<') | Key::Left => self.sort = self.sort.next(true),
            Key::Char('>') | Key::Right => self.sort = self.sort.next(false),
            Key::Escape if self.filter.is_empty() => return Effect::Quit,
            Key::Escape => self.filter.clear(),
            Key::Enter => {
                self.open = self.selected_row().map(|row| row.uuid.to_string());
                self.offset = 0;
                return Effect::Ask;
            }
            Key::Char(letter) if Sort::of_key(letter).is_some() => {
                let sort = Sort::of_key(letter).unwrap_or(self.sort);
                // The same key again turns the order round.
                self.reversed = sort == self.sort && !self.reversed;
                self.sort = sort;
            }
            key => return self.select(key),
        }
        Effect::Draw
    }

    fn select(&mut self, key: Key) -> Effect {
        let rows = self.rows();
        let here = self.selection(&rows);
        let last = rows.len().saturating_sub(1);
        let to = moved(key, here, self.seen.fit).unwrap_or(here).min(last);
        let uuid = rows.get(to).map(|row| row.uuid);
        if to == here && self.selected.is_some() {
            return Effect::Draw;
        }
        self.selected = uuid;
        Effect::Ask
    }

    fn press_in_page(&mut self, key: Key) -> Effect {
        let most = self.seen.lines.saturating_sub(self.seen.fit);
        match key {
            Key::Escape | Key::Backspace | Key::Left => {
                // Whoever was named on the command line is the one to come back to.
                if let Some(Focus { found: Ok(found), .. }) = self.focus() {
                    self.selected = Some(found.domain.row.uuid);
                }
                self.open = None;
                self.offset = 0;
                return Effect::Ask;
            }
            Key::Tab => {
                let next = self.seen.sections.iter().find(|line| **line > self.offset);
                // Where the last page is reached there is nothing further down.
                self.offset = next.filter(|_| self.offset < most).copied().unwrap_or(0);
            }
            key => self.offset = moved(key, self.offset, self.seen.fit).unwrap_or(self.offset),
        }
        self.offset = self.offset.min(most);
        Effect::Draw
    }

    fn edit(&mut self, key: Key) -> Effect {
        match key {
            Key::Char(letter) if self.filter.chars().count() < FILTER => self.filter.push(letter),
            Key::Backspace if self.filter.is_empty() => self.editing = None,
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.editing = None,
            Key::Escape => self.filter = self.editing.take().unwrap_or_default(),
            _ => {}
        }
        Effect::Draw
    }
}

/// Where a key leads from here.
fn moved(key: Key, here: usize, page: usize) -> Option<usize> {
    let page = page.max(2) - 1;
    Some(match key {
        Key::Up | Key::Char('k') => here.saturating_sub(1),
        Key::Down | Key::Char('j') => here + 1,
        Key::PageUp => here.saturating_sub(page),
        Key::PageDown => here + page,
        Key::Home | Key::Char('g') => 0,
        Key::End | Key::Char('G') => usize::MAX,
        _ => return None,
    })
}

/// Unknown ones are last, whichever way round.
fn largest_first(a: Option<f64>, b: Option<f64>, reversed: bool) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if reversed => a.total_cmp(&b),
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "only compared")]
fn figure(moment: &Moment, row: &DomainView, sort: Sort) -> Option<f64> {
    match sort {
        Sort::Need => row.need,
        Sort::Run => row.cpu_use_ratio,
        Sort::Wait => row.wait_ratio,
        Sort::Steal => moment.stolen(row.uuid),
        Sort::Memory => row.memory_current_kib.map(|kib| kib as f64),
        Sort::Traffic => traffic(row),
        Sort::Change => moment.changes.get(&row.uuid).map(|order| order.changed_unix_ms as f64),
        Sort::Name => None,
    }
}

/// Bytes a second in both directions.
pub(super) fn traffic(row: &DomainView) -> Option<f64> {
    Some(row.network.received_bytes_per_s? + row.network.sent_bytes_per_s?)
}

fn passes(row: &DomainView, wanted: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(wanted);
    wanted.is_empty() || has(&row.name) || has(row.class.as_str()) || has(state_name(row))
}

/// The domain's state, in a word or two.
pub(super) fn state_name(row: &DomainView) -> &'static str {
    use kvmpilot_core::sample::DomainState as D;
    match row.state {
        _ if row.quarantine.is_some() => "quarantine",
        D::Running => "running",
        D::Paused => "paused",
        D::ShuttingDown => "shutting down",
        D::ShutOff => "shut off",
        D::Crashed => "crashed",
        D::Suspended => "suspended",
        D::Unknown => "unknown",
    }
}
