//! The API asked nonsense, made from its own OpenAPI document: it never fails, and never hangs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kvmpilot::api::{Limits, document};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::server::Face;

/// Requests for each operation.
const REQUESTS: u32 = 40;
/// An answer that takes longer is a hang: a command has 60 s, but the daemon here is a made-up one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Words that have broken other programs, and any others.
fn word() -> BoxedStrategy<String> {
    let known = [
        "",
        "web",
        "0",
        "-1",
        "1",
        "2",
        "99999999999999999999",
        "1e309",
        "NaN",
        "null",
        "true",
        "..",
        "../../etc/passwd",
        "%00",
        "%2e%2e%2f",
        "a\u{0}b",
        "\u{202e}x",
        "'; drop table ledger; --",
        "<script>alert(1)</script>",
        "{}",
        "[]",
        "🦀",
        "\r\nX-Evil: 1",
        "0x10",
        "1,2,,3",
        "5d4c0a52-6f4e-4c32-9f0e-0a4a3c2f1b11",
    ];
    prop_oneof![prop::sample::select(known.to_vec()).prop_map(str::to_owned), any::<String>(), "[a-z_]{1,12}"]
        .boxed()
}

fn json_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(word(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
    .boxed()
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A body that is near to what is asked for, or far from it.
fn body(schema: &Value, runner: &mut TestRunner) -> Vec<u8> {
    let mut draw = |strategy: BoxedStrategy<Value>| strategy.new_tree(runner).unwrap().current();
    let mut fields = serde_json::Map::new();
    for name in schema["properties"].as_object().into_iter().flat_map(|all| all.keys()) {
        let value = draw(json_value());
        fields.insert(name.clone(), value);
    }
    let value = draw(prop_oneof![2 => Just(Value::Object(fields)), 1 => json_value()].boxed());
    let mut bytes = value.to_string().into_bytes();
    if draw(any::<bool>().prop_map(Value::from).boxed()).as_bool() == Some(true) {
        bytes.truncate(bytes.len() * 2 / 3);
    }
    bytes
}

fn ask(face: &Face, method: &str, target: &str, body: &[u8]) -> u16 {
    let mut stream = UnixStream::connect(&face.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        method.to_uppercase(),
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    // The head is enough: those who follow get no end.
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

#[test]
fn nonsense_is_the_clients_fault_and_said_at_once() {
    let face = Face::with_limits(Limits { requests_per_second: 100_000, ..Limits::default() });
    // Nobody records here, so those who ask wait in vain.
    drop(face.recordings.lock().unwrap().take());
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    let (mut asked, mut good) = (0, 0);
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for _ in 0..REQUESTS {
                let mut draw = || word().new_tree(&mut runner).unwrap().current();
                let mut target = path.clone();
                let mut query = Vec::new();
                for parameter in operation["parameters"].as_array().unwrap() {
                    let name = parameter["name"].as_str().unwrap();
                    match parameter["in"].as_str() {
                        Some("path") => target = target.replace(&format!("{{{name}}}"), &encode(&draw())),
                        _ => query.push(format!("{name}={}", encode(&draw()))),
                    }
                }
                if !query.is_empty() && draw() != "web" {
                    target = format!("{target}?{}", query.join("&"));
                }
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                let body = if schema.is_null() { Vec::new() } else { body(schema, &mut runner) };
                let began = Instant::now();
                let status = ask(&face, method, &target, &body);
                // 503 is what those get for whom there is no room, and who want to record where nobody does.
                assert!(
                    status < 500 || status == 503 && (path.ends_with("/events") || path.ends_with("/record")),
                    "{status}: {method} {target} {}",
                    String::from_utf8_lossy(&body)
                );
                assert!(began.elapsed() < PATIENCE, "{method} {target}");
                asked += 1;
                good += u32::from(status == 200);
            }
        }
    }
    // The daemon is well afterwards.
    face.prints(&["status"]);
    println!("{asked} requests, {good} of them good");
    assert!(asked > 1000 && good > 50, "{asked} requests, {good} of them good");
}
