//! `kvmpilot why` for one order of each kind, against the text that was read and found good. `KVMPILOT_WRITE_GOLDEN=1` writes
//! it anew, to be read again.

use std::path::Path;

use kvmpilot_core::order::WorkOrder;

use super::page::Screen;
use super::show;

const ORDERS: &str = include_str!("golden/orders.jsonl");
const RULES: [&str; 15] = [
    "weight.protect",
    "weight.yield",
    "weight.relax",
    "placement.separate",
    "placement.release",
    "balloon.reclaim",
    "balloon.release",
    "ladder.raise",
    "ladder.lower",
    "ladder.decay",
    "advice.more_vcpus",
    "advice.more_memory",
    "advice.move_away",
    "person.rollback",
    "drift.enforce",
];

#[test]
fn one_order_of_each_kind_reads_like_an_explanation() {
    let orders: Vec<WorkOrder> = ORDERS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for rule in RULES {
        assert!(orders.iter().any(|order| order.proposal.reason.rule == rule), "no order of {rule}");
    }
    let page = |order| show::why(order, Screen { width: None, colour: false });
    let text = orders.iter().map(page).collect::<Vec<_>>().join(&format!("\n{}\n\n", "-".repeat(80)));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/golden/why.txt");
    if std::env::var_os("KVMPILOT_WRITE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "KVMPILOT_WRITE_GOLDEN=1 writes it anew");
}
