//! Conditions and rule files: what is accepted, what is refused and how that is said.

use super::*;

#[test]
fn the_shipped_file_is_fine() {
    let entries = read(SHIPPED, SHIPPED_NAME).unwrap();
    assert_eq!(entries.len(), RuleSet::default().iter().count());
    assert!(entries.len() >= 10);
}
