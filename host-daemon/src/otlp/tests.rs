//! The push against a small collector: what arrives, and what happens while none is there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvmpilot_core::order::OrderState;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::*;
use crate::api::metrics::tests::{example, host_with};
use crate::api::metrics::{PREFIX, families};
use crate::api::views::OrdersView;
use crate::store::Limits;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a collector was sent: path, headers, body.
type Received = Arc<Mutex<Vec<(String, BTreeMap<String, String>, Value)>>>;

/// A collector that answers each request with the next of these answers, the last one for ever.
struct Collector {
    address: SocketAddr,
    received: Received,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    async fn start(address: &str, answers: &[(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Received::default();
        let (book, answers) = (Arc::clone(&received), answers.to_vec());
        let task = tokio::spawn(async move {
            let at = Arc::new(Mutex::new(0_usize));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(|request: hyper::Request<Incoming>| {
                    let (book, answers, at) = (Arc::clone(&book), answers.clone(), Arc::clone(&at));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
                        let headers =
                            head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
                        let json = serde_json::from_slice(&body).unwrap();
                        book.lock().unwrap().push((head.uri.path().to_owned(), headers.collect(), json));
                        let mut at = at.lock().unwrap();
                        let (status, said) = answers[(*at).min(answers.len() - 1)];
                        *at += 1;
                        let answer = hyper::Response::builder().status(status);
                        Ok::<_, Infallible>(
                            answer.body(Full::new(Bytes::from_static(said.as_bytes()))).unwrap(),
                        )
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { address, received, task }
    }

    fn of(&self, path: &str) -> Vec<Value> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|(at, ..)| at == path).map(|(_, _, body)| body.clone()).collect()
    }
}

fn config(address: SocketAddr) -> OtlpConfig {
    OtlpConfig {
        endpoint: Some(Endpoint { host: address.ip().to_string(), port: address.port(), path: "/in".into() }),
        period: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        headers: [("x-tenant".to_owned(), "a secret".to_owned())].into(),
        ..OtlpConfig::default()
    }
}

struct Host {
    otlp: Otlp,
    store: Store,
    _views: watch::Sender<Arc<Views>>,
    _directory: TempDir,
}

fn host(config: &OtlpConfig) -> Host {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    let (views, shown) = watch::channel(Arc::new(host_with(2)));
    let otlp = Otlp::start(config, shown, store.clone()).unwrap();
    Host { otlp, store, _views: views, _directory: directory }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

fn texts(attributes: &Value) -> BTreeMap<String, String> {
    let pair = |of: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&of["key"]), text(&of["value"]["stringValue"]))
    };
    attributes.as_array().unwrap().iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_metrics_that_prometheus_gets() {
    let collector = Collector::start("127.0.0.1:0", &[(200, "{}")]).await;
    let config = config(collector.address);
    assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    let _host = host(&config);
    let body = until("a push", || collector.of("/in/v1/metrics").pop()).await;
    let (_, headers, _) = collector.received.lock().unwrap()[0].clone();
    assert_eq!(
        (headers["content-type"].as_str(), headers["x-tenant"].as_str()),
        ("application/json", "a secret")
    );

    let of = &body["resourceMetrics"][0];
    let resource = texts(&of["resource"]["attributes"]);
    assert_eq!((resource["service.name"].as_str(), resource["host.name"].as_str()), ("kvmpilotd", "host1"));
    let pushed = of["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let views = host_with(2);
    let mut names = Vec::new();
    for family in families() {
        let mut wanted = Vec::new();
        family.read(&views, &mut |labels, value| {
            let labels =
                family.labels.iter().zip(labels).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            wanted.push((labels.collect::<BTreeMap<_, _>>(), value));
        });
        let name = format!("{PREFIX}_{}", family.name);
        let metric =
            pushed.iter().find(|metric| metric["name"] == *name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(metric["description"], family.help);
        let (kind, monotonic) = match family.kind {
            crate::api::metrics::Kind::Gauge => ("gauge", Value::Null),
            crate::api::metrics::Kind::Counter => ("sum", Value::Bool(true)),
            crate::api::metrics::Kind::Histogram => ("histogram", Value::Null),
        };
        assert_eq!(metric[kind]["isMonotonic"], monotonic, "{name}");
        let points = metric[kind]["dataPoints"].as_array().unwrap();
        assert_eq!(points.len(), wanted.len(), "{name}");
        for (point, (labels, value)) in points.iter().zip(wanted) {
            assert_eq!(texts(&point["attributes"]), labels, "{name}");
            assert!(
                point["timeUnixNano"].as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000_000_000_000
            );
            match value {
                crate::api::metrics::Value::Number(number) => assert_eq!(point["asDouble"], number, "{name}"),
                crate::api::metrics::Value::Counts(counts) => {
                    let number = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
                    let buckets: Vec<u64> =
                        point["bucketCounts"].as_array().unwrap().iter().map(number).collect();
                    assert_eq!(
                        (buckets.as_slice(), number(&point["count"])),
                        (&counts.buckets[..], counts.count)
                    );
                    assert_eq!(point["explicitBounds"].as_array().unwrap().len() + 1, buckets.len());
                    assert_eq!(point["sum"], counts.sum);
                }
            }
        }
        names.push(name);
    }
    assert_eq!(pushed.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_an_order_is_a_record_and_what_was_before_is_not() {
    let collector = Collector::start("127.0.0.1:0", &[(200, "")]).await;
    let mut proposal = example::<OrdersView>("orders").orders.remove(0).proposal;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Limits::default()).unwrap();
    store.order_insert(&proposal, OrderState::Proposed, 1).unwrap();
    // Nobody waits for an order to be written down, and one that is written after the first look is news.
    store.settle().unwrap();
    let (_views, shown) = watch::channel(Arc::new(host_with(1)));
    let _otlp = Otlp::start(&config(collector.address), shown, store.clone()).unwrap();
    // The first look says from where on there is something new.
    until("two pushes", || (collector.of("/in/v1/metrics").len() > 1).then_some(())).await;

    proposal.domain_name = "evil\n\u{1b}[2J".into();
    let order = store.order_insert(&proposal, OrderState::Approved, 1_700_000_000_123).unwrap();
    store.order_update(order.id, OrderState::Failed, "libvirt said \"no\"", 1_700_000_000_456).unwrap();
    let records = until("both records", || {
        let bodies = collector.of("/in/v1/logs");
        let records = bodies.iter().flat_map(|body| {
            body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().clone()
        });
        let records: Vec<Value> = records.collect();
        (records.len() >= 2).then_some(records)
    })
    .await;
    assert_eq!(records.len(), 2, "{records:#?}");
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            let attributes = texts(&record["attributes"]);
            assert_eq!(attributes["kvmpilot.order.id"], order.id.to_string());
            assert_eq!(attributes["domain"], "evil\u{fffd}\u{fffd}[2J");
            assert!(!record["body"]["stringValue"].as_str().unwrap().contains(char::is_control));
            (
                attributes["kvmpilot.order.state"].clone(),
                record["timeUnixNano"].clone(),
                record["severityText"].clone(),
            )
        })
        .collect();
    assert_eq!(told[0], ("approved".to_owned(), "1700000000123000000".into(), "INFO".into()));
    assert_eq!(told[1], ("failed".to_owned(), "1700000000456000000".into(), "WARN".into()));
    assert!(records[1]["body"]["stringValue"].as_str().unwrap().ends_with("failed: libvirt said \"no\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_costs_a_bounded_queue_and_gets_the_newest_when_it_is_back() {
    let gone = Collector::start("127.0.0.1:0", &[(200, "")]).await;
    let address = gone.address;
    drop(gone);
    let one: usize = metrics::encode(&host_with(2), unix_ms()).iter().map(Vec::len).sum();
    let config = OtlpConfig { queue_bytes: 3 * one + one / 2, ..config(address) };
    let host = host(&config);
    let report =
        until("a drop", || Some(host.otlp.report()).filter(|told| told.signals[0].dropped > 2)).await;
    assert!(report.queued_bytes <= u64::try_from(config.queue_bytes).unwrap(), "{report:?}");
    assert_eq!(report.signals[0].sent, 0);
    assert!(report.failed_attempts > 0 && report.message.unwrap().contains("refused"));
    // Whoever else writes or reads is not held up.
    let began = Instant::now();
    let proposal = example::<OrdersView>("orders").orders.remove(0).proposal;
    host.store.order_insert(&proposal, OrderState::Proposed, 2).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));

    let back = Collector::start(&address.to_string(), &[(200, "")]).await;
    until("a push", || (!back.of("/in/v1/metrics").is_empty()).then_some(())).await;
    until("the order, which had waited", || back.of("/in/v1/logs").pop()).await;
    let report =
        until("all to be sent", || Some(host.otlp.report()).filter(|told| told.queued_bytes == 0)).await;
    assert_eq!(report.message, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_dropped_and_what_may_come_later_is_tried_again() {
    let answers =
        [(400, "bad\r\nwords"), (503, "busy"), (200, r#"{"partialSuccess":{"errorMessage":"hm"}}"#)];
    let collector = Collector::start("127.0.0.1:0", &answers).await;
    let host = host(&config(collector.address));
    let refused =
        until("a refusal", || Some(host.otlp.report()).filter(|told| told.signals[0].dropped == 1)).await;
    assert_eq!(refused.signals[0].sent, 0);
    let sent = until("a success", || Some(host.otlp.report()).filter(|told| told.signals[0].sent > 1)).await;
    assert_eq!((sent.failed_attempts, sent.signals[0].dropped), (2, 1), "{sent:?}");
    // What was met with 503 came again as it was; what was refused did not.
    let times: Vec<Value> = collector
        .of("/in/v1/metrics")
        .iter()
        .map(|body| {
            let gauge = &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"];
            gauge["dataPoints"][0]["timeUnixNano"].clone()
        })
        .collect();
    assert!(times[0] != times[1] && times[1] == times[2] && times[2] != times[3], "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_is_given_up() {
    // It accepts in the kernel's queue, and that is all.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = host(&config(deaf.local_addr().unwrap()));
    let report =
        until("a failure", || Some(host.otlp.report()).filter(|told| told.failed_attempts > 0)).await;
    assert_eq!(report.message.as_deref(), Some("no answer within 500 ms"));
}

#[test]
fn a_large_host_is_pushed_in_requests_that_collectors_take_and_fits_into_the_queue() {
    let requests = metrics::encode(&host_with(500), 1_700_000_000_000);
    let mut points = 0;
    for request in &requests {
        assert!(request.len() < 4 << 20, "{} bytes", request.len());
        let json: Value = serde_json::from_slice(request).unwrap();
        for metric in json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap() {
            let of = |kind: &str| metric[kind]["dataPoints"].as_array().map_or(0, Vec::len);
            points += of("gauge") + of("sum") + of("histogram");
        }
    }
    let mut wanted = 0;
    let views = host_with(500);
    families().for_each(|family| family.read(&views, &mut |_, _| wanted += 1));
    let size: usize = requests.iter().map(Vec::len).sum();
    println!("{} requests, {size} bytes, {points} points", requests.len());
    assert_eq!(points, wanted);
    // Twice, so that one waits while the next is written.
    assert!(2 * size <= OtlpConfig::default().queue_bytes, "{size} bytes");
}
