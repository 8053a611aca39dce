//! Owns a lab with one guest until it is killed, interrupted, told to panic or to end. `tests/tests/lab.rs` starts it
//! to see that a lab goes with its owner, however the owner goes.

use std::io::{Write, stdin, stdout};

use kvmpilot_tests::{GuestSpec, Lab, LabOptions};

fn main() -> anyhow::Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![GuestSpec::new("only", 11)] })?;
    println!("{}", lab.name());
    stdout().flush()?;
    let mut order = String::new();
    stdin().read_line(&mut order)?;
    match order.trim() {
        "panic" => panic!("as told"),
        _ => lab.stop(),
    }
}
