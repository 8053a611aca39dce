//! Clients that send too much, too slowly, or nonsense: they get an answer or are cut off, and others are served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kvmpilot::api::Limits;

use crate::schema::assert_valid;
use crate::server::Face;

/// Limits that a test can wait for.
const SHORT: Limits = Limits {
    connections: 2,
    followers: 1,
    requests_per_second: 50,
    read: Duration::from_millis(300),
    command: Duration::from_millis(300),
    connection: Duration::from_millis(1500),
    body_bytes: 1000,
};

fn connect(face: &Face) -> UnixStream {
    let stream = UnixStream::connect(&face.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request and reads until the server closes.
fn exchange(face: &Face, request: &str) -> String {
    let mut stream = connect(face);
    stream.write_all(request.as_bytes()).unwrap();
    read_all(stream)
}

fn read_all(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[track_caller]
fn assert_problem(answer: &str, status: u16, detail: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_valid("problem", body);
    assert!(body.contains(detail), "{body}");
}

#[test]
fn nonsense_gets_a_problem() {
    let face = Face::start();
    for (path, status, detail) in [
        ("/nothing", 404, "there is nothing at /nothing"),
        ("/assets/nothing.js", 404, "there is nothing at /assets/nothing.js"),
        ("/api/v2/status", 404, "there is nothing at /api/v2/status"),
        ("/api/v1/domains/nobody", 404, "there is no domain"),
        ("/api/v1/domains/nobody/processes", 404, "there is no domain"),
        ("/api/v1/domains/%ff", 400, "UTF-8"),
        ("/api/v1/orders/x", 400, "named by its number"),
        ("/api/v1/orders/99999999999999999999", 400, "named by its number"),
        ("/api/v1/orders/18446744073709551615", 404, "there is no work order 18446744073709551615"),
        ("/api/v1/orders?state=done", 400, "unknown variant"),
        ("/api/v1/orders?limit=-1", 400, "limit"),
        ("/api/v1/orders?colour=red", 400, "colour"),
        ("/api/v1/restore", 405, "does not understand GET"),
    ] {
        assert_problem(&exchange(&face, &get(path)), status, detail);
    }
    assert!(exchange(&face, "\u{0}\u{1}\u{2}\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(face.commands.lock().unwrap().is_empty());
}

#[test]
fn an_oversized_body_is_refused_before_anything_happens() {
    let face = Face::with_limits(SHORT);
    let request = |length: usize| {
        let body = "x".repeat(length);
        format!(
            "POST /api/v1/restore HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    assert_problem(&exchange(&face, &request(1001)), 413, "larger than 1000 bytes");
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    let chunked = format!(
        "POST /api/v1/restore HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
    );
    assert_problem(&exchange(&face, &chunked), 413, "larger than 1000 bytes");
    assert!(face.commands.lock().unwrap().is_empty());
    assert!(exchange(&face, &request(1000)).starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn slow_clients_are_cut_off_and_others_wait_only_so_long() {
    let face = Face::with_limits(SHORT);
    let began = Instant::now();
    // These two take all the places there are: one never ends its head, one never sends its body.
    let mut head = connect(&face);
    head.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: x\r\n").unwrap();
    let mut body = connect(&face);
    body.write_all(
        b"POST /api/v1/restore HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n12",
    )
    .unwrap();
    assert!(exchange(&face, &get("/api/v1/status")).starts_with("HTTP/1.1 200 OK"));
    assert!(began.elapsed() >= SHORT.read, "the third client did not have to wait");
    assert_eq!(read_all(head), "");
    assert_problem(&read_all(body), 408, "did not come within");
    assert!(face.commands.lock().unwrap().is_empty());
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let face = Face::with_limits(SHORT);
    let mut views = crate::server::views();
    // More than a socket's buffers hold.
    views.status.health.problems = vec!["x".repeat(100_000); 100];
    face.views.send_replace(views.into());
    let mut blockers: Vec<_> = (0..2).map(|_| connect(&face)).collect();
    for blocker in &mut blockers {
        blocker.write_all(get("/api/v1/status").as_bytes()).unwrap();
    }
    assert!(exchange(&face, &get("/api/v1/doctor")).starts_with("HTTP/1.1 200 OK"));
    for blocker in blockers {
        assert!(read_all(blocker).len() < 10_000_000);
    }
}

#[test]
fn a_command_that_takes_too_long_goes_on_without_its_asker() {
    let face = Face::with_limits(SHORT);
    let request = "POST /api/v1/orders/99/approve HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_problem(&exchange(&face, request), 504, "it goes on");
    assert_eq!(face.commands.lock().unwrap().len(), 1);
}

#[test]
fn without_a_daemon_behind_it_commands_say_so() {
    let face = Face::start();
    let socket = face.directory.path().join("orphan.sock");
    let (commands, requests) = tokio::sync::mpsc::channel(1);
    let (watches, asked) = tokio::sync::mpsc::channel(1);
    drop((requests, asked));
    let context = kvmpilot::api::ApiContext {
        views: face.views.subscribe(),
        commands,
        watches,
        recorders: tokio::sync::mpsc::channel(1).0,
        asks: tokio::sync::mpsc::channel(1).0,
        store: face.store.clone(),
    };
    let listen = kvmpilot::api::Listen::new(&socket, "x");
    let _server = face.runtime.block_on(kvmpilot::api::serve(listen, context)).unwrap();
    let output = crate::server::kvmpilot(&socket, &["orders", "approve", "2"]);
    assert!(crate::server::stderr(&output).contains("kvmpilotd is stopping"), "{output:?}");
}
