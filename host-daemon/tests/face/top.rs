//! `kvmpilot top --once` against the server, and `kvmpilot top` where there is no terminal. In a terminal: the lab's tests.

use std::path::Path;

use crate::server::{Face, kvmpilot, stderr};

#[test]
fn one_frame_is_plain_text_of_the_width_that_is_asked_for() {
    let face = Face::start();
    let frame = face.prints(&["top", "--once"]);
    assert!(frame.starts_with("host1  Linux 6.12.48"), "{frame}");
    assert!(frame.contains("DOMAINS 2 of 2 by need") && frame.contains("\nweb "), "{frame}");
    assert!(!frame.contains('\u{1b}'));
    for (columns, least) in [("40", 30), ("80", 70), ("200", 150)] {
        let frame = face.prints(&["top", "--once", "--columns", columns]);
        let longest = frame.lines().map(|line| line.chars().count()).max().unwrap();
        assert!((least..=columns.parse().unwrap()).contains(&longest), "{columns}: {longest}\n{frame}");
    }
    let filtered = face.prints(&["top", "--once", "--filter", "SILENT", "--sort", "name"]);
    assert!(filtered.contains("1 of 2 by name") && !filtered.contains("\nweb "), "{filtered}");
    let page = face.prints(&["top", "--once", "web", "--columns", "200"]);
    for part in ["VCPUS", "85 us", "httpd -f -p 80", "above_normal (was normal)", "ORDERS, the newest 2"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let page = face.prints(&["top", "--once", "5d4c0a52-6f4e-4c32-9f0e-0a4a3c2f1b11"]);
    assert!(page.contains("\nweb  running"), "{page}");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let face = Face::start();
    for (arguments, message) in [
        (
            &["top", "--once", "wbe"][..],
            "kvmpilot: there is no domain \"wbe\"; `kvmpilot domains` lists them",
        ),
        (&["top"], "kvmpilot: kvmpilot top needs a terminal; `kvmpilot top --once` prints"),
    ] {
        let output = face.kvmpilot(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).starts_with(message), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let nobody = kvmpilot(Path::new("/nonexistent"), &["top", "--once"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("kvmpilotd does not run"), "{}", stderr(&nobody));
    for wrong in [&["top", "--columns", "80"][..], &["top", "--interval", "1ms"], &["top", "--sort", "x"]] {
        assert_eq!(face.kvmpilot(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
