//! The help page.

use ratatui::text::Line;

use super::super::theme::Theme;

/// Fits 80 columns and 20 lines.
const HELP: [&str; 19] = [
    "KEYS",
    "Up Down PgUp PgDn Home End (k j g G)  move        Enter  look into the domain",
    "Esc    one step back, at last out    q  quit      Space  ask the daemon now",
    "/      filter by name, class or state             Tab    next part of a page",
    "n need  c run  w wait  s steal  m memory  t traffic  l last change  a name:",
    "       sort by it, again turns the order round    < >    next column  r reverse",
    "FIGURES, of the last 5 s",
    "NEED   how urgently it needs something            RUN    time on a pcpu",
    "WAIT   of the time its vcpus wanted to run, the share in which they waited",
    "STEAL  share of the time in which others ran while its vcpus waited",
    "NET    bytes a second, both directions            WEIGHT cpu_shares of libvirt",
    "MEMORY what it has now (the balloon)              OF     what it can have at most",
    "VCPUS  how many, and on which pcpus they were last, in their order",
    "CHG    when kvmpilot changed something last, and what",
    "LEVEL  of a guest's process on the ladder (low, below_normal, normal,",
    "       above_normal, high), and by how many steps it was moved",
    "P50 P99  median and 99th percentile of a vcpu's waits for a pcpu",
    "A dash is what is not known: without the scheduler probe there are no P50,",
    "P99 and STEAL (`kvmpilot doctor` says why).",
];

pub(super) fn lines(theme: Theme) -> Vec<Line<'static>> {
    let line = |text: &'static str| {
        let is_title = text.starts_with("KEYS") || text.starts_with("FIGURES");
        if is_title { Line::styled(text, theme.title()) } else { Line::raw(text) }
    };
    HELP.into_iter().map(line).collect()
}
