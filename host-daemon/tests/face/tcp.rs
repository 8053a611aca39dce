//! The ways in beside the socket: TCP with tokens, TLS, the socket for those who may only look. And what holds for every
//! way: tags, followers of events, and answers that are as the OpenAPI document says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boon::{Compiler, Schemas};
use kvmpilot::api::views::Views;
use kvmpilot::api::{Limits, Listen, Server, document, serve};
use kvmpilot::config::{Access, Plain, TcpConfig};
use serde_json::Value;

use crate::server::Face;

/// A request as a client of the old school sends it, and status, head and body of the answer.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// As if the daemon had measured anew, a second later.
fn tick(views: &tokio::sync::watch::Sender<Arc<Views>>) {
    views.send_modify(|views| {
        let mut next = (**views).clone();
        next.measured_unix_ms += 1000;
        *views = Arc::new(next);
    });
}

fn address(face: &Face) -> SocketAddr {
    face.server.as_ref().unwrap().tcp_address().unwrap()
}

pub(crate) fn tcp(face: &Face, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    exchange(TcpStream::connect(address(face)).unwrap(), method, path, headers)
}

/// Makes a token and returns the header that carries it.
pub(crate) fn token(face: &Face, arguments: &[&str]) -> String {
    let made: Value =
        serde_json::from_str(&face.prints(&[&["token", "create", "--json"], arguments].concat())).unwrap();
    format!("Authorization: Bearer {}\r\n", made["token"].as_str().unwrap())
}

#[test]
fn over_tcp_a_token_says_who_may_what() {
    let face = Face::start();
    let (status, head, body) = tcp(&face, "GET", "/api/v1/status", "");
    assert_eq!(status, 401, "{body}");
    assert!(
        head.contains("www-authenticate: bearer") && body.contains("kvmpilot token create"),
        "{head}\n{body}"
    );
    let reader = token(&face, &["grafana"]);
    let writer = token(&face, &["ci", "--may-change"]);
    assert_eq!(tcp(&face, "GET", "/api/v1/status", "Authorization: Bearer kvmpilot_00\r\n").0, 401);
    for (headers, name) in [(&reader, "token grafana"), (&writer, "token ci")] {
        let (status, _, body) = tcp(&face, "GET", "/api/v1/whoami", headers);
        assert_eq!((status, body.contains(name)), (200, true), "{body}");
    }
    let approve = "/api/v1/orders/2/approve";
    let own = "X-Kvmpilot: 1\r\n";
    let (status, _, body) = tcp(&face, "POST", approve, &format!("{reader}{own}"));
    assert_eq!(status, 403, "{body}");
    // A page of another site can have a browser send a token that it holds, but not this header.
    let (status, _, body) = tcp(&face, "POST", approve, &writer);
    assert!(status == 403 && body.contains("X-Kvmpilot"), "{body}");
    assert!(face.commands.lock().unwrap().is_empty());
    assert_eq!(tcp(&face, "POST", approve, &format!("{writer}{own}")).0, 200);
    assert_eq!(face.commands.lock().unwrap().len(), 1);
    // Tokens are made at the socket only.
    let (status, _, body) = tcp(&face, "GET", "/api/v1/tokens", &writer);
    assert_eq!(status, 403, "{body}");

    let list = face.prints(&["token", "list"]);
    assert!(list.contains("grafana") && list.contains("ci"), "{list}");
    face.prints(&["token", "revoke", "ci"]);
    assert_eq!(tcp(&face, "GET", "/api/v1/status", &writer).0, 401);
    assert_eq!(tcp(&face, "GET", "/api/v1/status", &reader).0, 200);
    let again = face.kvmpilot(&["token", "create", "grafana"]);
    assert!(crate::server::stderr(&again).contains("revoke it first"), "{again:?}");
    // Nowhere at rest.
    let secret = reader.trim().rsplit(' ').next().unwrap().to_owned();
    let state = face.directory.path().join("state");
    for file in std::fs::read_dir(state).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
    }
}

#[test]
fn a_token_is_good_for_as_long_as_was_said() {
    let face = Face::start();
    let short = token(&face, &["short", "--valid", "1s"]);
    assert_eq!(tcp(&face, "GET", "/api/v1/status", &short).0, 200);
    let until = Instant::now() + Duration::from_secs(10);
    while tcp(&face, "GET", "/api/v1/status", &short).0 != 401 {
        assert!(Instant::now() < until, "it is still good");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn names_of_other_sites_do_not_lead_to_loopback() {
    let face = Face::start();
    let token = token(&face, &["x"]);
    let mut stream = TcpStream::connect(address(&face)).unwrap();
    write!(stream, "GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n{token}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[test]
fn at_the_reading_socket_even_root_only_looks() {
    let face = Face::start();
    let reader = || UnixStream::connect(&face.reader).unwrap();
    assert_eq!(exchange(reader(), "GET", "/api/v1/status", "").0, 200);
    for (method, path) in [
        ("GET", "/api/v1/record"),
        ("POST", "/api/v1/restore"),
        ("POST", "/api/v1/orders/2/approve"),
        ("GET", "/api/v1/tokens"),
    ] {
        let (status, _, body) = exchange(reader(), method, path, "");
        assert_eq!(status, 403, "{method} {path}: {body}");
    }
    assert!(face.commands.lock().unwrap().is_empty());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&face.reader).unwrap().permissions().mode() & 0o777, 0o666);
}

/// Another server with the same daemon behind it.
fn second(face: &Face, tcp: TcpConfig, limits: Limits) -> Server {
    let listen =
        Listen::new(&face.directory.path().join("second.sock"), "x").with_tcp(tcp).with_limits(limits);
    face.runtime.block_on(serve(listen, face.context.clone())).unwrap()
}

#[test]
fn tls_is_spoken_with_the_configured_certificate() {
    let face = Face::start();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = face.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let tcp = TcpConfig {
        address: Some("127.0.0.1:0".parse().unwrap()),
        certificate: file("cert.pem", made.cert.pem()),
        key: file("key.pem", made.signing_key.serialize_pem()),
        ..TcpConfig::default()
    };
    let token = token(&face, &["x"]);
    // Started after the token was made: it reads those that there are.
    let server = second(&face, tcp.clone(), Limits::default());
    let address = server.tcp_address().unwrap();

    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    assert_eq!(exchange(stream, "GET", "/api/v1/status", &token).0, 200);
    // Who does not speak TLS gets nothing.
    let mut plain = TcpStream::connect(address).unwrap();
    write!(plain, "GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    drop(server);

    let bad = TcpConfig { key: tcp.certificate.clone(), ..tcp };
    let listen = Listen::new(&face.directory.path().join("third.sock"), "x").with_tcp(bad);
    let error = face.runtime.block_on(serve(listen, face.context.clone())).unwrap_err();
    assert!(error.to_string().contains("PEM files that belong together"), "{error}");
}

#[test]
fn what_a_client_has_is_not_sent_again() {
    let face = Face::start();
    let ask = |headers: &str| {
        exchange(UnixStream::connect(&face.socket).unwrap(), "GET", "/api/v1/domains", headers)
    };
    let (status, head, body) = ask("");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().replace("w/", "W/");
    assert_eq!((status, body.is_empty()), (200, false));
    let (status, _, body) = ask(&format!("If-None-Match: {tag}\r\n"));
    assert_eq!((status, body.as_str()), (304, ""));
    face.views.send_modify(|views| {
        let mut changed = (**views).clone();
        changed.domains.pop();
        *views = Arc::new(changed);
    });
    assert_eq!(ask(&format!("If-None-Match: {tag}\r\n")).0, 200);
    // Large answers travel small.
    let mut stream = UnixStream::connect(&face.socket).unwrap();
    write!(
        stream,
        "GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let whole = document().to_string().len();
    assert!(answer.len() * 3 < whole, "{} of {whole} bytes", answer.len());
}

#[test]
fn an_answer_too_large_for_a_tag_comes_whole() {
    let face = Face::start();
    face.views.send_modify(|views| {
        let mut many = (**views).clone();
        many.domains = vec![many.domains[0].clone(); 12_000];
        *views = Arc::new(many);
    });
    let (status, head, body) =
        exchange(UnixStream::connect(&face.socket).unwrap(), "GET", "/api/v1/domains", "");
    assert!(
        status == 200 && body.len() > 8 << 20 && !head.contains("etag:"),
        "{status}, {} bytes",
        body.len()
    );
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["domains"].as_array().unwrap().len(), 12_000);
}

#[test]
fn followers_hear_of_ticks_and_orders_and_leave_room_for_others() {
    let limits = Limits { followers: 2, connections: 8, ..Limits::default() };
    let face = Face::with_limits(limits);
    let follow = || {
        let mut stream = UnixStream::connect(&face.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    let hear = |stream: &mut UnixStream, what: &str| {
        let (mut heard, mut part) = (String::new(), [0; 4096]);
        while !heard.contains(what) {
            let length = stream.read(&mut part).unwrap();
            assert!(length > 0, "it ended after {heard}");
            heard.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        heard
    };
    let (mut one, mut two) = (follow(), follow());
    let first = hear(&mut one, "event: tick");
    assert!(first.contains("text/event-stream") && first.contains("\"name\":\"web\""), "{first}");
    hear(&mut two, "event: tick");
    let mut third = follow();
    let refused = hear(&mut third, "as many clients follow");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    // Commands and other questions go on.
    face.prints(&["status"]);
    face.store
        .order_update(1, kvmpilot_core::order::OrderState::RolledBack, "by a test", u64::MAX >> 12)
        .unwrap();
    tick(&face.views);
    let news = hear(&mut one, "event: order");
    assert!(news.contains("\"rolled_back\""), "{news}");
    // Who has gone makes room.
    drop(two);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut next = follow();
        if !hear(&mut next, "\n").starts_with("HTTP/1.1 503") {
            break;
        }
        assert!(Instant::now() < until, "a slot was lost");
        tick(&face.views);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn too_much_is_refused_and_said_so() {
    let face = Face::with_limits(Limits { requests_per_second: 5, ..Limits::default() });
    let ask = |path: &str| exchange(UnixStream::connect(&face.socket).unwrap(), "GET", path, "");
    let (status, _, body) = ask(&format!("/api/v1/orders?domain={}", "x".repeat(5000)));
    assert!(status == 414 && body.contains("4096"), "{body}");
    let answers: Vec<u16> = (0..20).map(|_| ask("/api/v1/status").0).collect();
    assert!(answers.contains(&429) && answers.contains(&200), "{answers:?}");
}

#[test]
fn domains_come_in_pages_if_asked_for() {
    let face = Face::start();
    // As the daemon shows them.
    face.views.send_modify(|views| {
        let mut sorted = (**views).clone();
        sorted.domains.sort_by(|a, b| a.row.name.cmp(&b.row.name));
        *views = Arc::new(sorted);
    });
    let ask = |query: &str| {
        let stream = UnixStream::connect(&face.socket).unwrap();
        let (status, _, body) = exchange(stream, "GET", &format!("/api/v1/domains{query}"), "");
        assert_eq!(status, 200, "{body}");
        let page: Value = serde_json::from_str(&body).unwrap();
        let rows =
            page["domains"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned());
        (rows.collect::<Vec<_>>(), page["next_after"].as_str().map(str::to_owned))
    };
    let (all, next) = ask("");
    assert_eq!((all.len(), next), (2, None));
    let (first, next) = ask("?limit=1");
    assert_eq!((&first[..], next.as_deref()), (&all[..1], Some(&*all[0])));
    assert_eq!(ask("?limit=1&after=silent%2F1%20%C3%A4"), (all[1..].to_vec(), None));
}

fn points(face: &Face) -> usize {
    let stream = UnixStream::connect(&face.socket).unwrap();
    let (_, _, body) = exchange(stream, "GET", "/api/v1/history?domain=web&step_s=1", "");
    serde_json::from_str::<Value>(&body).unwrap()["unix_ms"].as_array().unwrap().len()
}

#[test]
fn history_comes_in_columns() {
    let face = Face::start();
    for expected in 1..=3 {
        tick(&face.views);
        // Shown again without anything new is no point.
        face.views.send_modify(|views| *views = Arc::new((**views).clone()));
        let until = Instant::now() + Duration::from_secs(10);
        while points(&face) < expected {
            assert!(Instant::now() < until, "point {expected} did not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let ask = |query: &str| {
        exchange(UnixStream::connect(&face.socket).unwrap(), "GET", &format!("/api/v1/history{query}"), "")
    };
    let (status, _, body) = ask("?domain=web&series=cpu_use_ratio,wait_ratio&step_s=1");
    let history: Value = serde_json::from_str(&body).unwrap();
    let (times, values) =
        (history["unix_ms"].as_array().unwrap(), history["series"]["wait_ratio"].as_array().unwrap());
    assert_eq!(status, 200);
    assert!(times.len() == 3 && times.len() == values.len() && values.iter().all(Value::is_f64), "{body}");
    assert!(history["series"].get("need").is_none(), "{body}");
    let (status, _, body) = ask("?series=cpu_some_avg10_percent");
    assert!(status == 200 && body.contains("\"domain\":null"), "{body}");
    for (query, says) in [
        ("?domain=web&series=nonsense", "the series are cpu_use_ratio"),
        ("?domain=nobody", "there is no domain"),
        ("?from_unix_ms=2&to_unix_ms=1", "later"),
        ("?step_s=x", "step_s"),
        ("?colour=red", "colour"),
    ] {
        let (status, _, body) = ask(query);
        assert!((400..500).contains(&status) && body.contains(says), "{query}: {body}");
    }
}

/// Whether an answer is as the document says.
fn validate(document: &Value, pointer: &str, answer: &str) -> Result<(), String> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("openapi.json", document.clone()).map_err(|error| error.to_string())?;
    let compiled = compiler
        .compile(&format!("openapi.json#{pointer}"), &mut schemas)
        .map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_str(answer).map_err(|error| error.to_string())?;
    schemas.validate(&answer, compiled).map_err(|error| format!("{error:#}"))
}

#[test]
fn answers_are_as_the_openapi_document_says() {
    let face = Face::start();
    let document = document();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(get) = item.get("get") else { continue };
        let Some(json) = get["responses"]["200"]["content"].get("application/json") else { continue };
        assert!(json["schema"].is_object() || json["schema"].is_boolean());
        let real = path.replace("{domain}", "web").replace("{id}", "1").replace("{name}", "shop");
        let (status, _, body) = exchange(UnixStream::connect(&face.socket).unwrap(), "GET", &real, "");
        assert_eq!(status, 200, "{real}: {body}");
        let escaped = path.replace('~', "~0").replace('/', "~1");
        let pointer = format!("/paths/{escaped}/get/responses/200/content/application~1json/schema");
        validate(&document, &pointer.replace('{', "%7B").replace('}', "%7D"), &body)
            .unwrap_or_else(|reasons| panic!("{real}: {reasons}\n{body}"));
        let wrong = validate(&document, &pointer.replace('{', "%7B").replace('}', "%7D"), "17");
        assert!(wrong.is_err() || json["schema"] == true, "{real} takes anything");
        asked += 1;
    }
    assert!(asked > 15, "{asked} questions");
}

#[test]
fn without_tls_loopback_may_be_open() {
    let face = Face::start();
    let tcp = TcpConfig {
        address: Some("127.0.0.1:0".parse().unwrap()),
        plain: Plain::Loopback,
        access: Access::Read,
        ..TcpConfig::default()
    };
    let server = second(&face, tcp, Limits::default());
    let ask = |method: &str, path: &str| {
        let stream = TcpStream::connect(server.tcp_address().unwrap()).unwrap();
        exchange(stream, method, path, "X-Kvmpilot: 1\r\n")
    };
    let (status, _, body) = ask("GET", "/api/v1/whoami");
    assert!(status == 200 && body.contains("\"may_change\":false"), "{body}");
    assert_eq!(ask("POST", "/api/v1/restore").0, 403);
}
