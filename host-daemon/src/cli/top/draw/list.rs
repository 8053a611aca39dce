//! The list of domains.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::super::words::{UNKNOWN, changed, memory, number, plain, rate};
use super::super::moment::Moment;
use super::super::options::Sort;
use super::super::state::{State, state_name, traffic};
use super::super::text::{Cell, Column, clean, row, titles};
use super::super::theme::Theme;
use super::head::share;
use super::put;
use crate::api::views::DomainView;

/// Lines above the rows.
pub(super) const ABOVE: u16 = 2;

/// A column: how it is laid out, in terminals of which widths it is shown, and what sorts by it.
struct Kind {
    column: Column,
    from_width: u16,
    sort: Option<Sort>,
    cell: fn(&DomainView, &Moment, u64, Theme) -> Cell,
}

/// In 80 columns there is room for the first ones without a width of their own.
const KINDS: [Kind; 18] = [
    Kind { column: Column::left("DOMAIN", 14), from_width: 0, sort: Some(Sort::Name), cell: name },
    Kind { column: Column::left("STATE", 10), from_width: 120, sort: None, cell: state },
    Kind { column: Column::left("CLASS", 8), from_width: 0, sort: None, cell: class },
    Kind { column: Column::left("VCPUS", 10), from_width: 140, sort: None, cell: vcpus },
    Kind { column: Column::right("NEED", 5), from_width: 0, sort: Some(Sort::Need), cell: need },
    Kind { column: Column::right("RUN", 5), from_width: 0, sort: Some(Sort::Run), cell: run },
    Kind { column: Column::right("WAIT", 5), from_width: 0, sort: Some(Sort::Wait), cell: wait },
    Kind { column: Column::right("STEAL", 5), from_width: 0, sort: Some(Sort::Steal), cell: steal },
    Kind { column: Column::left("TAKEN BY", 14), from_width: 160, sort: None, cell: taker },
    Kind { column: Column::right("MEMORY", 8), from_width: 0, sort: Some(Sort::Memory), cell: memory_now },
    Kind { column: Column::right("OF", 8), from_width: 120, sort: None, cell: memory_most },
    Kind { column: Column::right("WEIGHT", 6), from_width: 0, sort: None, cell: weight },
    Kind { column: Column::right("BEFORE", 6), from_width: 160, sort: None, cell: weight_before },
    Kind { column: Column::right("NET", 10), from_width: 0, sort: Some(Sort::Traffic), cell: net },
    Kind { column: Column::right("SENT", 10), from_width: 140, sort: None, cell: sent },
    Kind { column: Column::left("AGENT", 5), from_width: 150, sort: None, cell: agent },
    Kind { column: Column::right("CHG", 5), from_width: 0, sort: Some(Sort::Change), cell: changed_ago },
    Kind { column: Column::left("LAST CHANGE", 20), from_width: 110, sort: None, cell: change },
];

fn kinds(width: u16) -> Vec<&'static Kind> {
    KINDS.iter().filter(|kind| kind.from_width <= width).collect()
}

/// Columns of this width; a wide terminal has room for longer names.
fn columns(kinds: &[&Kind], width: u16) -> Vec<Column> {
    let mut columns: Vec<Column> = kinds.iter().map(|kind| kind.column).collect();
    if let Some(name) = columns.first_mut().filter(|_| width > 90) {
        name.width += (width / 10).min(11) - 5;
    }
    columns
}

/// Caption, titles and all rows.
pub(super) fn lines(state: &State, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let kinds = kinds(width);
    let columns = columns(&kinds, width);
    let mut head = titles(&columns, theme.title(), width);
    // A title and a gap for each column.
    for (index, kind) in kinds.iter().enumerate() {
        if kind.sort == Some(state.sort)
            && let Some(span) = head.spans.get_mut(index * 2)
        {
            span.style = theme.sorted();
        }
    }
    let rows = state.rows();
    let mut lines = vec![caption(state, rows.len(), theme), head];
    let Some(moment) = &state.moment else { return lines };
    lines.extend(rows.iter().map(|domain| {
        let cells = kinds.iter().map(|kind| (kind.cell)(domain, moment, state.now_unix_ms, theme));
        row(&columns, cells.collect(), width)
    }));
    lines
}

/// The part of it that holds the selected row.
pub(super) fn draw(state: &mut State, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut lines = lines(state, theme, area.width);
    let above = usize::from(ABOVE);
    let fit = usize::from(area.height).saturating_sub(above).max(1);
    let selection = state.selection(&state.rows());
    state.seen.fit = fit;
    // Not further than needed, as editors do.
    state.offset = state.offset.clamp((selection + 1).saturating_sub(fit), selection);
    state.offset = state.offset.min((lines.len() - above).saturating_sub(fit));
    if let Some(line) = lines.get_mut(selection + above) {
        line.style = theme.selected();
    }
    let rows = lines.split_off(above);
    put(buffer, area, lines.iter().chain(rows.iter().skip(state.offset)));
    // The whole row, not only what is written in it.
    let y = area.y + ABOVE + u16::try_from(selection - state.offset).unwrap_or(0);
    if !rows.is_empty() && y < area.bottom() {
        buffer.set_style(Rect { y, height: 1, ..area }, theme.selected());
    }
}

fn caption(state: &State, shown: usize, theme: Theme) -> Line<'static> {
    let all = state.moment.as_ref().map_or(0, |moment| moment.domains.len());
    let order = match (state.sort, state.reversed) {
        (Sort::Name, false) => "from a to z",
        (Sort::Name, true) => "from z to a",
        (Sort::Change, false) => "newest first",
        (Sort::Change, true) => "oldest first",
        (_, false) => "largest first",
        (_, true) => "smallest first",
    };
    let mut spans = vec![
        Span::styled("DOMAINS ", theme.title()),
        Span::raw(format!("{shown} of {all} by {}, {order}", state.sort.words())),
    ];
    if !state.filter.is_empty() {
        let filter = clean(&state.filter);
        spans.push(Span::styled(format!(", only with \"{filter}\""), theme.doubtful()));
    }
    Line::from(spans)
}

fn name(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    let style = if domain.quarantine.is_some() { theme.bad() } else { Style::new() };
    Cell::styled(&domain.name, style)
}

fn state(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    let style = match state_name(domain) {
        "running" => theme.good(),
        "quarantine" | "crashed" => theme.bad(),
        _ => theme.doubtful(),
    };
    Cell::styled(state_name(domain), style)
}

fn class(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(domain.class.to_string())
}

/// How many, and on which pcpus they were last.
fn vcpus(domain: &DomainView, moment: &Moment, _: u64, _: Theme) -> Cell {
    let pcpus = moment.pcpus.get(&domain.uuid).map(|pcpus| {
        let pcpus: Vec<String> = pcpus.iter().map(|pcpu| plain(*pcpu)).collect();
        format!(" on {}", pcpus.join(","))
    });
    Cell::plain(format!("{}{}", domain.vcpu_count, pcpus.unwrap_or_default()))
}

fn need(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(number(domain.need))
}

fn run(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(share(domain.cpu_use_ratio))
}

fn wait(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    Cell::styled(share(domain.wait_ratio), theme.resource(domain.states.cpu))
}

fn steal(domain: &DomainView, moment: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(share(moment.stolen(domain.uuid)))
}

fn taker(domain: &DomainView, moment: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(moment.taker(domain.uuid).unwrap_or_default())
}

fn memory_now(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    Cell::styled(memory(domain.memory_current_kib), theme.resource(domain.states.memory))
}

fn memory_most(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(memory(Some(domain.memory_maximum_kib)))
}

fn weight(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    let shares = domain.cpu_shares;
    let style = match (shares.current, shares.original) {
        (Some(now), Some(before)) if now > before => theme.good(),
        (Some(now), Some(before)) if now < before => theme.doubtful(),
        _ => Style::new(),
    };
    Cell::styled(plain(shares.current), style)
}

fn weight_before(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(plain(domain.cpu_shares.original))
}

fn net(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(rate(traffic(domain)))
}

fn sent(domain: &DomainView, _: &Moment, _: u64, _: Theme) -> Cell {
    Cell::plain(rate(domain.network.sent_bytes_per_s))
}

fn agent(domain: &DomainView, _: &Moment, _: u64, theme: Theme) -> Cell {
    let agent = &domain.agent;
    match (agent.connected, agent.usable) {
        (None, _) => Cell::styled("none", theme.quiet()),
        (Some(_), false) | (Some(false), true) => Cell::styled("mute", theme.doubtful()),
        (Some(true), true) => Cell::plain("ok"),
    }
}

fn changed_ago(domain: &DomainView, moment: &Moment, now_unix_ms: u64, theme: Theme) -> Cell {
    match moment.changes.get(&domain.uuid) {
        Some(order) => Cell::plain(short(now_unix_ms.saturating_sub(order.changed_unix_ms))),
        None => Cell::styled(UNKNOWN, theme.quiet()),
    }
}

fn change(domain: &DomainView, moment: &Moment, _: u64, _: Theme) -> Cell {
    let Some(order) = moment.changes.get(&domain.uuid) else { return Cell::plain("") };
    let back = if order.state.is_in_force() { "" } else { "taken back: " };
    let action = &order.proposal.action;
    let change = changed(&action.to_text(), &action.from_text());
    Cell::plain(format!("{back}{} {change}", action.target()))
}

/// A span of time in five characters.
fn short(ms: u64) -> String {
    match ms / 1000 {
        s @ ..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", (s / 86_400).min(9999)),
    }
}
