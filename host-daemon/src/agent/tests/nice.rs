//! What the gateway makes of what the nice program says.

use kvmpilot_core::sample::ProcessKey;

use super::*;
use crate::agent::{Agent, Limits, NiceChange, NiceResult};

fn change(pid: u32, to: i8) -> NiceChange {
    NiceChange { key: ProcessKey { pid, start_ticks: 500 }, expect: 0, to }
}

#[tokio::test(start_paused = true)]
async fn outcomes_keep_the_order_of_the_changes() {
    let said = "3 500 gone\n2 500 drift 4\n1 500 now 5\n4 500 now 0\n6 501 now 5\nnoise\n7 500 now x\n";
    let mut agent = Agent::new(printing(|_| said.as_bytes().to_vec()), Limits::default());
    let changes = [change(1, 5), change(2, 5), change(3, -5), change(4, 5), change(6, 5), change(7, 5)];
    let outcomes = agent.set_nice(&changes).await.unwrap();
    assert!(outcomes.iter().zip(&changes).all(|(outcome, change)| outcome.key == change.key));
    let [applied, drift, gone, failed, reused, garbled] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(applied.result, NiceResult::Applied);
    assert_eq!(drift.result, NiceResult::Drift { now: 4 });
    assert_eq!(gone.result, NiceResult::Gone);
    for outcome in [failed, reused, garbled] {
        assert!(matches!(outcome.result, NiceResult::Failed(_)), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_program_for_a_batch_and_none_for_nothing() {
    let mut agent = Agent::new(printing(|_| Vec::new()), Limits::default());
    assert!(agent.set_nice(&[]).await.unwrap().is_empty());
    assert!(agent.set_nice(&[change(1, 20), change(0, 1)]).await.unwrap().len() == 2);
    assert!(agent.transport.asked.lock().unwrap().is_empty());
    agent.set_nice(&(1..2000).map(|pid| change(pid, 1)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(agent.transport.asked.lock().unwrap()[..], ["guest-info", "guest-exec", "guest-exec-status"]);
}
