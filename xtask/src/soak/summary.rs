//! The books of a soak, and what is said and written of them at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::cadence::CadenceSummary;
use super::deck::Event;
use super::life::Life;
use super::reading::{Reading, Span};
use crate::bench::common::Machine;

/// Kept of the readings, which come each 5 s: one of so many.
const THINNED: usize = 12;

/// How often one kind of event came.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Count {
    pub(super) done: u32,
    /// There was nobody to whom it could happen.
    pub(super) skipped: u32,
    /// virsh or a guest refused.
    pub(super) failed: u32,
}

/// What is counted while it goes on.
#[derive(Debug, Default)]
pub(super) struct Books {
    events: BTreeMap<Event, Count>,
    /// What goes on.
    pub(super) current: String,
    pub(super) lives: Vec<LifeSummary>,
    orders: BTreeMap<String, u64>,
    pub(super) newest_order: u64,
    pub(super) database: Vec<u64>,
    /// Guests whose values were compared with those at first.
    pub(super) values_checked: u64,
    pub(super) kept_checked: u64,
    pub(super) audits: u64,
    pub(super) orders_compared: u64,
    /// Guests that QEMU's emulation lost while they booted.
    pub(super) lost: u32,
}

impl Books {
    pub(super) fn happened(&mut self, event: Event) {
        self.events.entry(event).or_default().done += 1;
    }

    pub(super) fn skipped(&mut self, event: Event) {
        self.events.entry(event).or_default().skipped += 1;
    }

    pub(super) fn failed(&mut self, event: Event) {
        self.events.entry(event).or_default().failed += 1;
    }

    /// Adds what a life of the daemon tells of its orders.
    pub(super) fn add_orders(&mut self, moves: &Value) {
        for moved in moves.as_array().into_iter().flatten() {
            if let (Some(state), Some(times)) = (moved["state"].as_str(), moved["times"].as_u64()) {
                *self.orders.entry(state.to_owned()).or_default() += times;
            }
        }
    }
}

/// One life of the daemon.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LifeSummary {
    /// Who ended it.
    ended: String,
    seconds: f64,
    /// Priority cycles.
    cycles: u64,
    cadence: CadenceSummary,
    descriptors: Span,
    threads: Span,
    rss_kib: Span,
    anonymous_kib: Span,
    /// One a minute.
    readings: Vec<Reading>,
}

impl LifeSummary {
    pub(super) fn new(life: &Life<'_>, ended: &str) -> Self {
        let of = |value: fn(&Reading) -> u64| Span::of(life.readings.iter().map(value));
        Self {
            ended: ended.to_owned(),
            seconds: life.began.elapsed().as_secs_f64(),
            cycles: life.status["cycle"]["number"].as_u64().unwrap_or(0),
            cadence: life.cadence.summary(),
            descriptors: of(|reading| reading.descriptors),
            threads: of(|reading| reading.threads),
            rss_kib: of(|reading| reading.rss_kib),
            anonymous_kib: of(|reading| reading.anonymous_kib),
            readings: life.readings.iter().step_by(THINNED).cloned().collect(),
        }
    }
}

/// The shape of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    machine: Machine,
    seed: u64,
    /// How long events went on, and the end with them.
    seconds: f64,
    interrupted: bool,
    /// What was broken; null if nothing was.
    broken: Option<String>,
    events: BTreeMap<String, Count>,
    /// How often orders came into each state.
    orders: BTreeMap<String, u64>,
    turns: u64,
    cycles: u64,
    longest_turn_ms: u64,
    /// Turns that were late because the whole machine stood still.
    excused_turns: u64,
    database_bytes: Span,
    rss_kib: Span,
    descriptors: Span,
    threads: Span,
    values_checked: u64,
    kept_checked: u64,
    audits: u64,
    orders_compared: u64,
    guests_lost_at_boot: u32,
    requests: u64,
    lives: Vec<LifeSummary>,
}

/// What the books do not hold.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) machine: Machine,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    pub(super) interrupted: bool,
    pub(super) broken: Option<String>,
    pub(super) requests: u64,
}

impl Report {
    pub(super) fn new(facts: Facts, books: Books) -> Self {
        let lives = &books.lives;
        let sum = |value: fn(&LifeSummary) -> u64| lives.iter().map(value).sum();
        let span = |value: fn(&LifeSummary) -> Span| Span {
            min: lives.iter().map(|life| value(life).min).min().unwrap_or(0),
            max: lives.iter().map(|life| value(life).max).max().unwrap_or(0),
            last: lives.last().map_or(0, |life| value(life).last),
        };
        let count = |event: Event| (event.name(), books.events.get(&event).copied().unwrap_or_default());
        Self {
            machine: facts.machine,
            seed: facts.seed,
            seconds: facts.seconds,
            interrupted: facts.interrupted,
            broken: facts.broken,
            events: Event::all().map(count).collect(),
            turns: sum(|life| life.cadence.turns),
            cycles: sum(|life| life.cycles),
            longest_turn_ms: lives.iter().map(|life| life.cadence.longest_ms).max().unwrap_or(0),
            excused_turns: sum(|life| life.cadence.excused),
            database_bytes: Span::of(books.database.iter().copied()),
            rss_kib: span(|life| life.rss_kib),
            descriptors: span(|life| life.descriptors),
            threads: span(|life| life.threads),
            orders: books.orders,
            values_checked: books.values_checked,
            kept_checked: books.kept_checked,
            audits: books.audits,
            orders_compared: books.orders_compared,
            guests_lost_at_boot: books.lost,
            requests: facts.requests,
            lives: books.lives,
        }
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("soak of {:.0} s, seed {}\n", self.seconds, self.seed);
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "  {name:<20} {what}");
        };
        let done: Vec<String> = self
            .events
            .iter()
            .map(|(name, count)| {
                let failed =
                    if count.failed > 0 { format!(" ({} failed)", count.failed) } else { String::new() };
                format!("{name} {}{failed}", count.done)
            })
            .collect();
        for (n, some) in done.chunks(6).enumerate() {
            line(if n == 0 { "events" } else { "" }, some.join(", "));
        }
        let orders: Vec<String> =
            self.orders.iter().map(|(state, times)| format!("{state} {times}")).collect();
        line("orders", orders.join(", "));
        let lives: Vec<String> =
            self.lives.iter().map(|life| format!("{} after {:.0} s", life.ended, life.seconds)).collect();
        line("lives of the daemon", lives.join(", "));
        line(
            "cadence",
            format!(
                "{} turns, {} priority cycles; {} ms the longest between two turns, {} excused by a machine that stood still",
                self.turns, self.cycles, self.longest_turn_ms, self.excused_turns
            ),
        );
        let span = |span: Span| format!("{} to {}, {} at the end", span.min, span.max, span.last);
        line("descriptors", span(self.descriptors));
        line("threads", span(self.threads));
        line("RSS KiB", span(self.rss_kib));
        line("database bytes", span(self.database_bytes));
        line(
            "checked",
            format!(
                "values of {} guests as at first, excluded guests {} times, {} audits of {} orders in force",
                self.values_checked, self.kept_checked, self.audits, self.orders_compared
            ),
        );
        line("requests answered", self.requests.to_string());
        let end = match (&self.broken, self.interrupted) {
            (Some(what), _) => format!("BROKEN: {what}"),
            (None, true) => "interrupted; nothing was broken so far".to_owned(),
            (None, false) => "nothing was broken".to_owned(),
        };
        line("outcome", end);
        text
    }
}
