//! Measurements, to be run by hand: how long answers take with 500 domains, and beside a crowd of clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvmpilot::api::views::Views;
use kvmpilot::api::{Limits, Listen, serve};
use kvmpilot::config::{Access, Plain, TcpConfig};

use crate::server::{Face, views};

const DOMAINS: u128 = 500;
const ROUNDS: usize = 50;

fn many() -> Views {
    let few = views();
    let mut domains = Vec::new();
    for number in 0..DOMAINS {
        let mut domain = few.domains[0].clone();
        domain.row.name = format!("guest-{number:03}");
        domain.row.uuid = uuid::Uuid::from_u128(number);
        domains.push(domain);
    }
    Views { domains, ..few }
}

/// Whole answers in milliseconds, and the size of the last one.
fn answers(face: &Face, path: &str, headers: &str) -> (Vec<f64>, usize) {
    let mut size = 0;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let mut stream = UnixStream::connect(&face.socket).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&answer[..100.min(answer.len())])
            );
            size = answer.len();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times, size)
}

fn show(what: &str, (times, size): &(Vec<f64>, usize)) {
    println!("{what}: median {:.1} ms, worst {:.1} ms, {size} bytes", times[ROUNDS / 2], times[ROUNDS - 1]);
}

#[test]
#[ignore = "a measurement: cargo test --release -p kvmpilot --test face -- --ignored --nocapture --test-threads=1 scale"]
fn scale_of_500_domains() {
    let face = Face::with_limits(Limits { requests_per_second: 100_000, ..Limits::default() });
    face.views.send_replace(Arc::new(many()));
    for path in ["/api/v1/status", "/api/v1/domains", "/api/v1/vcpus", "/metrics"] {
        show(path, &answers(&face, path, ""));
        show(&format!("{path}, gzip"), &answers(&face, path, "Accept-Encoding: gzip\r\n"));
    }
}

#[test]
#[ignore = "a measurement: cargo test --release -p kvmpilot --test face -- --ignored --nocapture --test-threads=1 scale"]
fn scale_of_a_crowd_of_clients() {
    let face = Face::with_limits(Limits { requests_per_second: 100_000, ..Limits::default() });
    face.views.send_replace(Arc::new(many()));
    show("status alone", &answers(&face, "/api/v1/status", ""));
    let tcp = TcpConfig {
        address: Some("127.0.0.1:0".parse().unwrap()),
        plain: Plain::Loopback,
        access: Access::Read,
        ..TcpConfig::default()
    };
    let listen = Listen::new(&face.directory.path().join("second.sock"), "x").with_tcp(tcp);
    let server = face.runtime.block_on(serve(listen, face.context.clone())).unwrap();
    let address = server.tcp_address().unwrap();
    let crowd: Vec<TcpStream> = (0..1200)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            // A thousand want to follow; the rest never get to the end of their head.
            let end = if number < 1000 { "\r\n" } else { "" };
            write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{end}").unwrap();
            stream
        })
        .collect();
    let ticker = face.views.clone();
    let ticking = face.runtime.spawn(async move {
        loop {
            ticker.send_modify(|views| {
                let mut next = (**views).clone();
                next.measured_unix_ms += 100;
                *views = Arc::new(next);
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    show(
        "status beside 1000 followers and 200 slow ones, 10 ticks a second",
        &answers(&face, "/api/v1/status", ""),
    );
    ticking.abort();
    drop(crowd);
}
