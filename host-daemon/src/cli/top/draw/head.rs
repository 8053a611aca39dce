//! The first lines of every frame: the host, the daemon, and what is wrong.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::super::words::{UNKNOWN, count, memory, number, percent, ratio, seconds};
use super::super::state::State;
use super::super::text::clean;
use super::super::theme::Theme;
use crate::api::views::StatusView;

/// Problems of the daemon's health that are shown; `kvmpilot status` has all.
const PROBLEMS: usize = 2;

pub(super) fn lines(state: &State, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    match &state.moment {
        Some(moment) => lines.extend(host(&moment.status, theme)),
        None => lines.push(Line::styled("kvmpilot top: nothing known yet", theme.title())),
    }
    if let Some(trouble) = &state.trouble {
        let age = state.moment.as_ref().map(|moment| state.now_unix_ms.saturating_sub(moment.taken_unix_ms));
        let old = age.map_or_else(String::new, |age| format!("; these figures are {} old", ago(age)));
        lines.push(Line::styled(format!("no answer, trying again{old}"), theme.bad()));
        lines.push(Line::styled(clean(trouble), theme.bad()));
    }
    lines
}

fn host(status: &StatusView, theme: Theme) -> Vec<Line<'static>> {
    let host = &status.host;
    let pressure = &host.pressure;
    let plain = |text: String| Span::raw(clean(&text));
    let word = |text: &str, style: Style| Span::styled(clean(text), style);
    let pcpus = usize::try_from(host.pcpus).unwrap_or(0);
    let health = match (status.health.ok, status.paused) {
        (true, false) => word("health ok", theme.good()),
        (true, true) => word("paused", theme.doubtful()),
        (false, _) => word("health not ok", theme.bad()),
    };
    let first = vec![
        word(&host.name, theme.title()),
        plain(format!("  Linux {}, {}, mode {}  ", host.kernel, count(pcpus, "pcpu"), status.mode)),
        health,
        plain(format!("  {}", count(status.findings.len(), "finding"))),
    ];
    let second = plain(format!(
        "pressure cpu {}, memory {}, io {}  memory {} of {} available",
        percent(pressure.cpu_some_avg10_percent),
        percent(pressure.memory_some_avg10_percent),
        percent(pressure.io_some_avg10_percent),
        memory(host.memory_available_kib),
        memory(host.memory_total_kib),
    ));
    let orders = match status.orders.proposed {
        0 => plain("  no order waits".to_owned()),
        proposed => word(&format!("  {proposed} orders to approve"), theme.doubtful()),
    };
    let third = vec![
        plain(format!(
            "cycle {}, {} ago, {} ms  own cost {} of {}",
            status.cycle.number,
            seconds(status.cycle.seconds_since_last),
            number(status.cycle.last_duration_ms),
            own_percent(status).map_or_else(|| UNKNOWN.to_owned(), |own| format!("{own:.2} %")),
            percent(status.own_cost.budget_percent),
        )),
        orders,
    ];
    let mut lines = vec![Line::from(first), Line::from(second), Line::from(third)];
    if !status.libvirt.connected {
        let why = status.libvirt.message.as_deref().unwrap_or("no connection");
        lines.push(Line::styled(clean(&format!("libvirt: {why}")), theme.bad()));
    }
    let problems = status.health.problems.iter().take(PROBLEMS);
    lines.extend(problems.map(|problem| Line::styled(clean(problem), theme.bad())));
    if !status.own_cost.shed.is_empty() {
        let shed = format!("given up to keep to the budget: {}", status.own_cost.shed.join(", "));
        lines.push(Line::styled(clean(&shed), theme.doubtful()));
    }
    lines
}

/// What the daemon and its programs use.
fn own_percent(status: &StatusView) -> Option<f64> {
    let cost = &status.own_cost;
    Some(cost.daemon_percent? + cost.programs_percent.unwrap_or(0.0))
}

/// A span in milliseconds, in words.
pub(super) fn ago(ms: u64) -> String {
    // The two kinds of figures that a table of ages needs; larger ones have no more digits either.
    let s = std::time::Duration::from_millis(ms).as_secs_f64();
    clean(&seconds(Some(s)))
}

/// A share as a plain figure with its sign: "37 %".
pub(super) fn share(value: Option<f64>) -> String {
    ratio(value)
}
