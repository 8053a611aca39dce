//! Tests of the pages, on the documented examples.

use serde::de::DeserializeOwned;

use super::page::{Page, Screen};
use super::show;
use crate::api::views::{
    CommandReply, DomainDetailView, DomainsView, FlowsView, OrdersView, ProcessesView, StatusView,
};

const PLAIN: Screen = Screen { width: None, colour: false };

macro_rules! example {
    ($name:literal) => {
        parse(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/", $name, ".json")))
    };
}

fn parse<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

fn orders() -> OrdersView {
    example!("orders")
}

/// Every page there is, on this screen.
fn pages(screen: Screen) -> Vec<String> {
    let domain: DomainDetailView = example!("domain");
    let processes: ProcessesView = example!("processes");
    let mut pages = vec![
        show::status(&example!("status"), screen),
        show::domains(&DomainsView { domains: vec![domain.row.clone()], next_after: None }, screen),
        show::domain(&domain, screen),
        show::processes(&processes, screen),
        show::processes(
            &ProcessesView { message: Some("no agent".into()), ..ProcessesView::default() },
            screen,
        ),
        show::flows(&example!("flows"), screen),
        show::flows(&FlowsView { message: Some("no tap".into()), ..FlowsView::default() }, screen),
        show::orders(&orders(), screen),
        show::reply(&example!("command"), screen),
        show::doctor(&example!("doctor"), screen),
        show::watch(&example!("watch"), screen),
    ];
    pages.extend(
        orders().orders.iter().flat_map(|order| [show::order(order, screen), show::why(order, screen)]),
    );
    pages
}

#[test]
fn tables_fit_the_terminal_and_break_no_words() {
    for width in [40, 80, 120, 200] {
        for page in pages(Screen { width: Some(width), colour: false }) {
            // Sentences are left to the terminal to wrap, and the doctor has nothing else; tables must fit.
            let in_table =
                |line: &&str| line.contains("  ") && !line.starts_with("  ") && !page.contains("probes: ");
            for line in page.lines().filter(in_table) {
                assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            }
            if width >= 80 && page.contains("TRAFFIC") {
                assert!(page.contains("running  latency") && page.contains("512 MiB"), "{page}");
            }
        }
    }
}

#[test]
fn colours_only_where_they_are_wanted_and_without_any_effect_on_the_layout() {
    let coloured = pages(Screen { width: Some(100), colour: true });
    let plain = pages(Screen { width: Some(100), colour: false });
    assert!(coloured.iter().filter(|page| page.contains("\u{1b}[3")).count() >= 7);
    for (coloured, plain) in coloured.iter().zip(&plain) {
        let mut stripped = coloured.clone();
        for code in ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, *plain);
        assert!(!plain.contains(|c: char| c.is_control() && c != '\n'), "{plain:?}");
        assert!(!plain.contains(|c: char| ('\u{2060}'..='\u{206f}').contains(&c)), "{plain:?}");
    }
}

#[test]
fn a_guest_cannot_write_to_the_terminal() {
    let mut view: ProcessesView = example!("processes");
    let hostile = "x\u{1b}[2J\r\nfake line\u{202e}\u{9b}\u{7}\t";
    view.applications[0].name = hostile.into();
    view.applications[0].evidence = Some(hostile.into());
    view.applications[0].processes[0].command = hostile.into();
    view.applications[0].processes[0].listens[0].local = hostile.into();
    view.scarce_reason = Some(hostile.into());
    for colour in [false, true] {
        let page = show::processes(&view, Screen { width: None, colour });
        assert!(
            !page.contains("\u{1b}[2J") && !page.contains(['\r', '\t', '\u{7}', '\u{9b}', '\u{202e}']),
            "{page:?}"
        );
        assert!(!page.lines().any(|line| line.starts_with("fake")), "{page}");
    }
}

#[test]
fn pages_say_what_matters() {
    let contains = |page: &str, parts: &[&str]| {
        for part in parts {
            assert!(page.contains(part), "{part} in\n{page}");
        }
    };
    let status: StatusView = example!("status");
    contains(
        &show::status(&status, PLAIN),
        &[
            "health",
            "2 wait for approval",
            "tier 1, scheduler probe: off; the kernel has no BTF",
            "io -",
            "warning: web: its",
        ],
    );
    contains(
        &show::domain(&example!("domain"), PLAIN),
        &["8192 (was 1024)", "iothread 1", "3.9 ms", "latency, inferred: serves 118", "392 MiB usable"],
    );
    contains(
        &show::processes(&example!("processes"), PLAIN),
        &[
            "above_normal (was normal)",
            "-5 (was 0)",
            "0.0.0.0:80, 1 connection",
            "never moved: it is on the protected",
        ],
    );
    contains(
        &show::flows(&example!("flows"), PLAIN),
        &[
            "in 23.1 kB/s, out 815.2 kB/s",
            "3 were pushed out",
            "httpd 120",
            "shared inside postgresql.service: 210",
        ],
    );
    let reply: CommandReply = example!("command");
    contains(
        &show::reply(&reply, PLAIN),
        &["everything is back", "left alone", "which kvmpilot did not set"],
    );
    contains(&show::orders(&orders(), PLAIN), &["14  proposed  web", "older ones: --before 13"]);
}

#[test]
fn a_page_keeps_lines_apart() {
    let mut page = Page::new(PLAIN);
    page.line("a\nb");
    page.facts([("c", "d\ne".to_owned())]);
    assert_eq!(page.finish(), "a\u{fffd}b\nc  d\u{fffd}e\n");
}
