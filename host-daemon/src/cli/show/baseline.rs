//! What is normal for a domain.

use kvmpilot_core::decide::baseline::Baseline;

use super::super::page::{Page, doubtful};
use super::super::words::{rate, ratio, seconds, time};
use crate::api::views::DomainDetailView;

pub(super) fn baseline(page: &mut Page, view: &DomainDetailView) {
    let Some(known) = &view.baseline else { return };
    page.heading("NORMAL");
    let row = |name: &str, figure: &Baseline, show: fn(Option<f64>) -> String| {
        let since =
            figure.unusual_since_unix_ms.map(|since| doubtful(&format!("unusual since {}", time(since))));
        vec![
            name.to_owned(),
            show(figure.now),
            show(Some(figure.normal)),
            show(Some(figure.deviation)),
            seconds(Some(figure.learned_s)),
            since.unwrap_or_default(),
        ]
    };
    let rows = vec![
        row("cpu", &known.cpu_ratio, ratio),
        row("memory", &known.memory_ratio, ratio),
        row("traffic", &known.traffic_bytes_per_s, rate),
        row("loss", &known.loss_ratio, ratio),
    ];
    let learned = |row: &[f64]| row.iter().any(|seconds| *seconds > 0.0);
    let figures = [known.cpu_ratio, known.memory_ratio, known.traffic_bytes_per_s, known.loss_ratio];
    if learned(&figures.map(|figure| figure.learned_s)) {
        page.table(&["FIGURE", ">NOW", ">NORMAL", ">USUALLY OFF BY", ">LEARNED OVER", "~UNUSUAL"], rows);
    } else {
        page.line("not learned yet");
    }
}
