//! What the gateway makes of what the program for files says.

use kvmpilot_core::sample::FileFound;

use super::*;
use crate::agent::{Agent, Limits};

#[tokio::test(start_paused = true)]
async fn each_file_gets_its_own_line_and_lies_none() {
    let sum = "AB".repeat(32);
    let said =
        format!("1 sum {sum}\n2 missing\n3 sum short\n9 missing\n0 large\n5 large x\n4 large\nnoise\n");
    let mut agent = Agent::new(printing(move |_| said.clone().into_bytes()), Limits::default());
    let paths = ["/a", "/b", "/c", "/d", "/e", "relative"].map(str::to_owned);
    let found = agent.files(&paths).await.unwrap();
    assert_eq!(
        found.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["/a", "/b", "/c", "/d", "/e"]
    );
    assert_eq!(found[0].found, FileFound::Sha256("ab".repeat(32)));
    assert_eq!(found[1].found, FileFound::Missing);
    assert_eq!(found[3].found, FileFound::TooLarge);
    for file in [&found[2], &found[4]] {
        assert!(matches!(file.found, FileFound::Unreadable(_)), "{file:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_watched_files_is_not_asked() {
    let mut agent = Agent::new(printing(|_| Vec::new()), Limits::default());
    assert!(agent.files(&[]).await.unwrap().is_empty());
    assert!(agent.transport.asked.lock().unwrap().is_empty());
}
