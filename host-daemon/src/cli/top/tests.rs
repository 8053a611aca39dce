//! Frames and keys, on the documented examples.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use serde::de::DeserializeOwned;

use super::draw;
use super::moment::{Focus, Found, Moment};
use super::once::{frame, line_of};
use super::options::Sort;
use super::state::{Effect, Key, State};
use super::text::{clean, cut};
use super::theme::Theme;
use crate::api::views::{DomainDetailView, DomainsView, OrdersView, PlacedVcpuView, VcpusView};

const PLAIN: Theme = Theme { colour: false };
/// A minute after the newest of the example's orders.
const NOW: u64 = 1_795_372_321_000;

fn example<T: DeserializeOwned>(name: &str) -> T {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/examples/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// `web` as documented, and three others with the same figures but these.
fn moment() -> Moment {
    let web = example::<DomainDetailView>("domain").row;
    let mut domains = vec![web.clone()];
    for (number, name, need, used, memory) in [
        (1, "batch", Some(2.5), Some(0.98), Some(4 << 20)),
        (2, "idle", None, Some(0.001), Some(512 << 10)),
        (3, "archive", Some(0.5), None, None),
    ] {
        let mut other = web.clone();
        (other.name, other.uuid) = (name.to_owned(), kvmpilot_core::Uuid::from_u128(number));
        (other.need, other.cpu_use_ratio, other.memory_current_kib) = (need, used, memory);
        domains.push(other);
    }
    let mut moment = Moment::of(
        example("status"),
        DomainsView { domains, next_after: None },
        example("steal"),
        example("orders"),
    );
    moment.taken_unix_ms = NOW;
    let vcpu = |number, pcpu| PlacedVcpuView { uuid: web.uuid, number, pcpu, ..PlacedVcpuView::default() };
    moment.place(VcpusView { vcpus: vec![vcpu(1, Some(5)), vcpu(0, Some(3)), vcpu(2, None)] });
    moment
}

fn state() -> State {
    let mut state = State::new(Sort::Need, "", None);
    state.now_unix_ms = NOW;
    state.take(Ok(moment()));
    state
}

fn found() -> Found {
    Found {
        domain: example("domain"),
        processes: example("processes"),
        orders: example::<OrdersView>("orders").orders,
    }
}

/// Answers what the state asks.
fn answered(mut state: State) -> State {
    let mut moment = moment();
    moment.focus = state.wants().map(|asked| Focus { asked, found: Ok(Box::new(found())) });
    state.take(Ok(moment));
    state
}

fn drawn(state: &mut State, theme: Theme, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::screen(state, theme, frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let buffer = drawn(state, PLAIN, width, height);
    (0..height).map(|y| line_of(&buffer, y).trim_end().to_owned()).collect()
}

fn names(state: &State) -> Vec<&str> {
    state.rows().iter().map(|row| row.name.as_str()).collect()
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        state.press(Key::Char(key));
    }
}

#[test]
fn the_list_at_80_by_24() {
    let shown = lines(&mut state(), 80, 24);
    assert_eq!(
        shown[..9],
        [
            "host1  Linux 6.12.48, 2 pcpus, mode recommend  health ok  1 finding",
            "pressure cpu 38 %, memory 0.0 %, io -  memory 20.0 GiB of 24.0 GiB available",
            "cycle 62, 2.1 s ago, 3.4 ms  own cost 0.35 % of 1.0 %  2 orders to approve",
            "DOMAINS 4 of 4 by need, largest first",
            "DOMAIN         CLASS     NEED   RUN  WAIT STEAL   MEMORY WEIGHT        NET   CHG",
            "web            latency   14.5  63 %  31 %  31 %  512 MiB   8192   1.9 MB/s   64s",
            "batch          latency    2.5  98 %  31 %     - 4096 MiB   8192   1.9 MB/s     -",
            "archive        latency    0.5     -  31 %     -        -   8192   1.9 MB/s     -",
            "idle           latency      - 0.1 %  31 %     -  512 MiB   8192   1.9 MB/s     -",
        ]
    );
    assert_eq!(shown[9..23], [""; 14]);
    assert_eq!(shown[23], "Enter look into  / filter  < > sort by  r reverse  ? help  q quit");
}

#[test]
fn the_list_at_200_by_50_has_more_columns_and_the_selected_domain_below() {
    let mut state = answered(state());
    let shown = lines(&mut state, 200, 50);
    for title in ["STATE", "VCPUS", "TAKEN BY", "BEFORE", "SENT", "AGENT", "LAST CHANGE"] {
        assert!(shown[4].contains(title), "{title}: {}", shown[4]);
    }
    for part in ["running", "2 on 3,5,- ", "batch", "1024", "64s", "level of httpd above_normal (was normal)"]
    {
        assert!(shown[5].contains(part), "{part}: {}", shown[5]);
    }
    assert_eq!(shown[11], "-".repeat(200));
    let below = shown[12..].join("\n");
    for part in ["VCPUS", "0-1", "85 us", "3.9 ms", "batch 94 %", "PROCESSES", "sh -c while", "ORDERS"] {
        assert!(below.contains(part), "{part}:\n{below}");
    }
}

#[test]
fn a_domain_at_80_by_24() {
    let mut state = state();
    lines(&mut state, 80, 24);
    assert_eq!(state.press(Key::Enter), Effect::Ask);
    assert_eq!(lines(&mut state, 80, 24)[3], "asking");
    let mut state = answered(state);
    let shown = lines(&mut state, 80, 24);
    for line in [
        "cpu over: runs 63 %, waits 31 %  weight 8192 (was 1024)  need 14.5",
        "memory ok: 512 MiB of 1024 MiB  balloon: 392 MiB usable, floor 336 MiB",
        "network in 14.5 kB/s, out 1.9 MB/s  agent heard 12 s ago",
        "VCPUS",
        "VCPU PCPU PIN           RUN   WAIT      P50      P99 WHILE IT WAITED THERE RAN",
        "   0    0 0-1          64 %   30 %    85 us   3.9 ms batch 94 %, the host 5.8 %~",
        "PROCESSES, 12 s ago; CPU is scarce: 5 runnable threads on 2 vcpus",
        "below_normal -1 hog             131    5  98 % sh -c while :; do :; done",
        "above_normal +1 httpd           120   -5  41 % httpd -f -p 80 -h /www",
        "   14 proposed      60 s cpu_shares: 1024 -> 8192       web waits 31.0 % of the~",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}\n{}", shown.join("\n"));
    }
    assert!(shown[23].starts_with("Esc back"), "{}", shown[23]);
    assert_eq!(state.press(Key::Escape), Effect::Ask);
    assert!(lines(&mut state, 80, 24)[3].starts_with("DOMAINS"));
    assert_eq!(state.press(Key::Escape), Effect::Quit);
}

#[test]
fn a_page_scrolls_to_its_end_and_no_further() {
    let mut state = state();
    state.press(Key::Enter);
    let mut state = answered(state);
    let all = lines(&mut state, 80, 60);
    lines(&mut state, 80, 14);
    for _ in 0..40 {
        state.press(Key::Down);
    }
    let end = lines(&mut state, 80, 14);
    let last = all.iter().rev().find(|line| !line.is_empty() && !line.starts_with("Esc")).unwrap();
    assert_eq!(end[12], *last);
    state.press(Key::Up);
    assert_eq!(lines(&mut state, 80, 14)[4], end[3], "one key up is one line up");
    state.press(Key::Home);
    lines(&mut state, 80, 9);
    state.press(Key::Tab);
    assert_eq!(lines(&mut state, 80, 9)[3], "VCPUS");
    state.press(Key::Tab);
    assert!(lines(&mut state, 80, 9)[3].starts_with("PROCESSES"));
    // A page that was scrolled shows something after the terminal has grown.
    assert!(lines(&mut state, 200, 60)[3].starts_with("web  running"));
}

#[test]
fn keys_sort_by_what_they_say_and_turn_it_round() {
    let mut state = state();
    assert_eq!(names(&state), ["web", "batch", "archive", "idle"]);
    for (keys, order) in [
        ("c", ["batch", "web", "idle", "archive"]),
        ("c", ["idle", "web", "batch", "archive"]),
        ("m", ["batch", "idle", "web", "archive"]),
        ("a", ["archive", "batch", "idle", "web"]),
        ("r", ["web", "idle", "batch", "archive"]),
        ("s", ["web", "archive", "batch", "idle"]),
        ("l", ["web", "archive", "batch", "idle"]),
        ("<", ["archive", "batch", "idle", "web"]),
        ("n", ["web", "batch", "archive", "idle"]),
        ("n", ["archive", "batch", "web", "idle"]),
    ] {
        press(&mut state, keys);
        assert_eq!(names(&state), order, "after {keys}");
    }
    press(&mut state, "l");
    assert!(lines(&mut state, 80, 24)[3].contains("by last change, newest first"));
}

#[test]
fn the_selection_follows_its_domain() {
    let mut state = state();
    lines(&mut state, 80, 24);
    assert_eq!(state.press(Key::Down), Effect::Ask);
    let batch = state.selected;
    press(&mut state, "a");
    let rows = state.rows();
    assert_eq!((state.selection(&rows), state.selected), (1, batch));
    // Rows that do not fit move with it.
    state.press(Key::End);
    let shown = lines(&mut state, 80, 8);
    assert_eq!((&shown[5][..4], &shown[6][..3]), ("idle", "web"));
    state.press(Key::Home);
    assert!(lines(&mut state, 80, 8)[5].starts_with("archive"));
}

#[test]
fn a_filter_is_typed_kept_or_given_up() {
    let mut state = state();
    press(&mut state, "/");
    press(&mut state, "AR");
    assert_eq!(names(&state), ["archive"]);
    let shown = lines(&mut state, 80, 24);
    assert!(shown[3].contains("1 of 4") && shown[3].contains("only with \"AR\""), "{}", shown[3]);
    assert!(shown[23].starts_with("filter: AR"), "{}", shown[23]);
    state.press(Key::Backspace);
    state.press(Key::Enter);
    // Letters are commands again.
    press(&mut state, "c");
    assert_eq!((state.filter.as_str(), state.sort), ("A", Sort::Run));
    press(&mut state, "/");
    press(&mut state, "xyz");
    assert!(names(&state).is_empty());
    assert_eq!(state.press(Key::Escape), Effect::Draw);
    assert_eq!(state.filter, "A");
    assert_eq!(state.press(Key::Escape), Effect::Draw);
    assert_eq!(state.filter, "");
    // Nothing to select and nothing to look into.
    press(&mut state, "/");
    press(&mut state, "xyz");
    state.press(Key::Enter);
    state.press(Key::Down);
    state.press(Key::Enter);
    assert_eq!(state.open, None);
    lines(&mut state, 80, 40);
}

#[test]
fn a_daemon_that_is_gone_leaves_the_last_figures_and_says_so() {
    let mut state = state();
    state.take(Err("kvmpilotd does not run: nobody listens".to_owned()));
    state.now_unix_ms += 12_000;
    let shown = lines(&mut state, 80, 24);
    assert_eq!(shown[3], "no answer, trying again; these figures are 12 s old");
    assert_eq!(shown[4], "kvmpilotd does not run: nobody listens");
    assert!(shown[7].starts_with("web "), "{}", shown[7]);
    state.take(Ok(moment()));
    assert!(lines(&mut state, 80, 24)[3].starts_with("DOMAINS"));
    // Not a single answer so far.
    let mut state = State::new(Sort::Need, "", None);
    state.take(Err("kvmpilotd does not run".to_owned()));
    assert_eq!(lines(&mut state, 80, 24)[1], "no answer, trying again");
}

#[test]
fn a_domain_that_is_gone_is_no_trouble() {
    let mut state = state();
    state.press(Key::Enter);
    let mut gone = moment();
    let why = "there is no domain \"web\"".to_owned();
    gone.focus = state.wants().map(|asked| Focus { asked, found: Err(why.clone()) });
    state.take(Ok(gone));
    assert_eq!(lines(&mut state, 80, 24)[3], why);
    assert_eq!(state.press(Key::Escape), Effect::Ask);
}

#[test]
fn frames_of_all_sizes_are_drawn_and_none_is_too_wide() {
    for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 12), (80, 24), (132, 43), (200, 50), (500, 200)] {
        let mut state = state();
        for keys in ["", "?", "x/web"] {
            press(&mut state, keys);
            lines(&mut state, width, height);
        }
        state.press(Key::Enter);
        state.press(Key::Enter);
        let mut state = answered(state);
        assert!(state.focus().is_some());
        state.press(Key::End);
        lines(&mut state, width, height);
    }
    for width in [40, 80, 132, 200] {
        let mut state = state();
        for page in [frame(&state, width), {
            state.press(Key::Enter);
            frame(&answered(state.clone()), width)
        }] {
            for line in page.lines() {
                assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            }
        }
    }
}

#[test]
fn help_names_every_key_of_a_column() {
    let mut state = state();
    press(&mut state, "?");
    let help = lines(&mut state, 80, 24).join("\n");
    for sort in <Sort as clap::ValueEnum>::value_variants() {
        let key = format!("{} {}", sort.key(), sort.words());
        assert!(help.contains(&key), "{key}\n{help}");
    }
    assert!(help.contains("doctor` says why"), "{help}");
    assert_eq!(state.press(Key::Escape), Effect::Draw);
    assert!(!state.help);
}

#[test]
fn a_guest_writes_nothing_to_the_terminal() {
    let hostile = "x\u{1b}[2J\r\nfake\u{202e}\u{9b}\u{7}\t\u{fe0f}\u{2062}".repeat(200);
    let mut moment = moment();
    moment.domains[0].name.clone_from(&hostile);
    let mut found = found();
    found.domain.row.class_evidence.clone_from(&hostile);
    found.processes.applications[0].processes[0].command.clone_from(&hostile);
    found.processes.scarce_reason = Some(hostile.clone());
    found.orders[0].proposal.reason.summary.clone_from(&hostile);
    let mut state = state();
    state.take(Ok(moment.clone()));
    moment.focus = state.wants().map(|asked| Focus { asked, found: Ok(Box::new(found)) });
    state.take(Ok(moment));
    state.take(Err(hostile.clone()));
    let once = frame(&state, 200);
    let live = lines(&mut state, 200, 50).join("\n");
    for page in [once, live] {
        let bad = |c: char| (c.is_control() && c != '\n') || ('\u{2000}'..='\u{206f}').contains(&c);
        assert!(!page.contains(bad), "{page:?}");
        assert!(!page.lines().any(|line| line.starts_with("fake")), "{page}");
    }
    assert!(clean(&hostile).chars().count() <= 600);
}

#[test]
fn texts_are_cut_by_what_the_terminal_shows() {
    assert_eq!(cut("abcdef", 6), "abcdef");
    assert_eq!(cut("abcdefg", 6), "abcde~");
    assert_eq!(cut("漢字漢字", 5), "漢字~");
    assert_eq!(cut("漢字漢字", 4), "漢~");
    assert_eq!(cut("ab", 0), "");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let coloured = drawn(&mut state(), Theme { colour: true }, 80, 24);
    let plain = drawn(&mut state(), PLAIN, 80, 24);
    let has_colour = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg != Color::Reset);
    assert!(has_colour(&coloured) && !has_colour(&plain));
    assert!((0..24).all(|y| line_of(&coloured, y) == line_of(&plain, y)));
}
