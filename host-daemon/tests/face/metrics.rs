//! `/metrics` at the ways in: who may scrape, and in which format.

use crate::server::Face;
use crate::tcp::{tcp, token};

#[test]
fn who_may_look_may_scrape_in_the_format_that_was_asked_for() {
    let face = Face::start();
    assert_eq!(tcp(&face, "GET", "/metrics", "").0, 401, "no token, no metrics");
    let reader = token(&face, &["prometheus"]);

    let (status, head, plain) = tcp(&face, "GET", "/metrics", &reader);
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(
        plain.contains("\n# TYPE kvmpilot_cycles_total counter\nkvmpilot_cycles_total{host=\"host1\"} 62"),
        "{plain}"
    );
    assert!(!plain.contains("# EOF"), "{plain}");

    // As Prometheus 2 and 3 ask.
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1\r\n";
    let (status, head, open) = tcp(&face, "GET", "/metrics", &format!("{reader}{accept}"));
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.contains("\n# TYPE kvmpilot_cycles counter\nkvmpilot_cycles_total{"), "{open}");
    assert!(open.trim_end().ends_with("# EOF"), "{open}");

    // A domain that is gone is gone at the next scrape; nothing is kept.
    assert!(plain.contains("domain=\"web\""), "{plain}");
    face.views.send_modify(|views| {
        let mut changed = (**views).clone();
        changed.domains.retain(|domain| domain.row.name != "web");
        changed.steal.domains.clear();
        *views = changed.into();
    });
    let (_, _, after) = tcp(&face, "GET", "/metrics", &reader);
    assert!(!after.contains("domain=\"web\"") && after.contains("domain=\"silent/1 ä\""), "{after}");
    assert_eq!(tcp(&face, "POST", "/metrics", &format!("{reader}X-Kvmpilot: 1\r\n")).0, 405);
}
