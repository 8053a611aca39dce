//! HTTP load from inside the lab's network namespace, by wrk.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::Lab;
use crate::run::output_of;

/// wrk prints no percentile above the 99th by itself.
const MORE_PERCENTILES: &str = "function done(summary, latency, requests)
    io.write(string.format(\"     99.9%% %.2fus\\n\", latency:percentile(99.9)))
end
";

/// A load on one guest's HTTP server.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    /// Name of the guest.
    pub guest: String,
    /// Connections kept busy at the same time.
    pub connections: u32,
    /// How long.
    pub seconds: u32,
}

/// What the client saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpReport {
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    /// 99.9th percentile of the latency in milliseconds.
    pub p999_ms: f64,
    /// Answered requests per second.
    pub requests_per_second: f64,
    /// Answered requests.
    pub requests: u64,
    /// Socket errors, timeouts and answers other than 2xx and 3xx.
    pub errors: u64,
}

impl Lab {
    /// Drives the load and returns when it is over.
    ///
    /// # Errors
    /// When the guest is unknown, or wrk fails or prints something new.
    pub fn http_load(&self, load: &HttpLoad) -> Result<HttpReport> {
        let url = format!("http://{}/cgi-bin/work", self.guest(&load.guest)?.ip());
        let script = self.state_dir().join("wrk.lua");
        fs::write(&script, MORE_PERCENTILES)?;
        let text = output_of(
            self.command("wrk")
                .args(["--latency", "--threads", "1", "--timeout", "10", "--script"])
                .arg(script)
                .args(["--connections", &load.connections.to_string()])
                .args(["--duration", &format!("{}s", load.seconds)])
                .arg(url),
        )?;
        parse(&text).with_context(|| format!("cannot read wrk's report:\n{text}"))
    }

    /// Runs `work` while a client keeps the server of a guest busy.
    ///
    /// # Errors
    /// When the work fails, or the load does.
    pub fn under_load<T: Send>(
        &self,
        guest: &str,
        connections: u32,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    self.http_load(&HttpLoad { guest: guest.to_owned(), connections, seconds: 2 })?;
                }
                anyhow::Ok(())
            });
            let result = work();
            over.store(true, Ordering::Relaxed);
            let load = load.join().map_err(|_| anyhow!("the load panicked"))?;
            // What the work says is why the test is there.
            let result = result?;
            load.map(|()| result)
        })
    }
}

fn parse(text: &str) -> Result<HttpReport> {
    let after = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label).map(str::trim));
    let latency = |label: &str| millis(after(label).with_context(|| format!("no {label} line"))?);
    let rate = after("Requests/sec:").context("no Requests/sec line")?;
    // "    118 requests in 1.00s, 13.02KB read"
    let requests =
        text.lines().find_map(|line| line.trim().split_once(" requests in ")).context("no request count")?.0;
    // "  Socket errors: connect 0, read 1, write 0, timeout 2" and "  Non-2xx or 3xx responses: 7", only if there are any
    let socket_errors = after("Socket errors:").unwrap_or_default();
    let socket_errors = socket_errors.split(',').filter_map(|part| part.trim().split_once(' '));
    let bad_answers = after("Non-2xx or 3xx responses:").map(|count| ("answers", count));
    let errors: Vec<u64> =
        socket_errors.chain(bad_answers).map(|(_, count)| count.parse()).collect::<Result<_, _>>()?;
    Ok(HttpReport {
        p50_ms: latency("50%")?,
        p99_ms: latency("99%")?,
        p999_ms: latency("99.9%")?,
        requests_per_second: rate.parse()?,
        requests: requests.parse()?,
        errors: errors.iter().sum(),
    })
}

/// wrk writes `841.00us`, `32.10ms`, `1.02s` and `1.20m`.
fn millis(text: &str) -> Result<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).with_context(|| format!("{text} has no unit"))?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => anyhow::bail!("unknown unit in {text}"),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://10.77.0.11/cgi-bin/work
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    33.93ms    6.92ms  58.80ms   76.07%
    Req/Sec   118.10     14.55   130.00     90.00%
  Latency Distribution
     50%   32.10ms
     75%   36.56ms
     90%   42.48ms
     99%    1.02s
  118 requests in 1.00s, 13.02KB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 7
Requests/sec:    117.73
Transfer/sec:     12.99KB
     99.9% 1530000.00us
";

    #[test]
    fn a_report_with_errors_is_read() {
        let report = parse(REPORT).unwrap();
        let expected = HttpReport {
            p50_ms: 32.1,
            p99_ms: 1020.0,
            p999_ms: 1530.0,
            requests_per_second: 117.73,
            requests: 118,
            errors: 10,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_report_without_errors_is_read() {
        let lines = REPORT.lines().filter(|line| !line.contains("errors:") && !line.contains("Non-2xx"));
        assert_eq!(parse(&lines.collect::<Vec<_>>().join("\n")).unwrap().errors, 0);
    }

    #[test]
    fn anything_else_is_refused() {
        for (old, new) in
            [("50%", "51%"), ("32.10ms", "32.10fs"), ("117.73", "n/a"), ("timeout 2", "timeout two")]
        {
            assert!(parse(&REPORT.replace(old, new)).is_err(), "{new}");
        }
    }
}
