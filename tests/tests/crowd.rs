//! A crowd at the door of the API: a thousand clients that want to follow events, and some that never end their request. The
//! daemon's loop goes on as before, and so do commands at the socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::api::Events;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions};

const BOOT: Duration = Duration::from_secs(120);
const PORT: u16 = 8765;
const CONFIG: &str = "[modes]\ndefault = \"observe\"\n\
     [tcp]\naddress = \"127.0.0.1:8765\"\nplain = \"loopback\"\naccess = \"read\"\n";
/// Ticks that are waited for, each 5 s.
const TICKS: usize = 4;
const TICK: Duration = Duration::from_secs(5);

/// Longest time between two ticks that a follower at the daemon's socket hears of.
fn longest_between_ticks(daemon: &Daemon<'_>) -> Result<Duration> {
    let mut events = Events::follow(&daemon.socket())?;
    let mut heard = Vec::new();
    // The first comes at once, and tells nothing about the loop.
    while heard.len() < TICKS + 1 {
        let (name, _) = events.next().context("the events ended")?;
        if name == "tick" {
            heard.push(Instant::now());
        }
    }
    let between = heard[1..].windows(2).map(|pair| pair[1] - pair[0]);
    between.max().context("no ticks")
}

#[test]
fn a_crowd_of_clients_does_not_disturb_the_loop() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![GuestSpec::new("web", 60)] })?;
    lab.wait_agents(BOOT)?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let alone = longest_between_ticks(&daemon)?;
    let (crowd, refused) = lab.in_network(|| {
        let mut crowd = Vec::new();
        // Together with those that are served that is less than the kernel's queue holds.
        for number in 0..1100 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            // The last hundred never come to the end of their head.
            let end = if number < 1000 { "\r\n" } else { "" };
            write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{end}")?;
            crowd.push(stream);
        }
        // Those for whom there is no room are told so, or wait outside.
        let mut refused = 0;
        for stream in &crowd[..100] {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut first = String::new();
            BufReader::new(stream).read_line(&mut first)?;
            refused += u32::from(first.contains("503"));
        }
        anyhow::Ok((crowd, refused))
    })??;
    ensure!((1..100).contains(&refused), "{refused} of the first 100 were refused");
    let began = Instant::now();
    daemon.json(&["status"])?;
    let answer = began.elapsed();
    let beside = longest_between_ticks(&daemon)?;
    println!(
        "longest between two ticks: {alone:?} alone, {beside:?} beside 1100 clients; `status` took {answer:?}"
    );
    // A tick that was left out would be 10 s.
    ensure!(beside < TICK * 9 / 5, "{beside:?} between two ticks");
    drop(crowd);
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}
