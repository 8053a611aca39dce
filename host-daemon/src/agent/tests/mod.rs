//! The agent gateway against scripted guests and, for what the programs really do, against this machine's own shell.

mod files;
mod inventory;
mod local;
mod nice;
mod protocol;
mod says_no;
mod system;
mod windows;

use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Transport, TransportError};

type Answer = Result<String, TransportError>;

/// A guest that answers as the test wants, and remembers what it was asked.
struct Scripted<F> {
    answer: F,
    asked: Mutex<Vec<String>>,
}

impl<F: Fn(&str, &Value) -> Answer + Send + Sync> Scripted<F> {
    fn new(answer: F) -> Self {
        Self { answer, asked: Mutex::default() }
    }
}

impl<F: Fn(&str, &Value) -> Answer + Send + Sync> Transport for Scripted<F> {
    async fn command(&self, command: &str, _timeout: Duration) -> Answer {
        let request: Value = serde_json::from_str(command).unwrap();
        let name = request["execute"].as_str().unwrap();
        self.asked.lock().unwrap().push(name.to_owned());
        (self.answer)(name, &request["arguments"])
    }
}

fn ok(value: &Value) -> Answer {
    Ok(json!({ "return": value }).to_string())
}

fn info() -> Value {
    json!({"version": "10.0.2", "supported_commands": [
        {"name": "guest-exec", "enabled": true, "success-response": true},
        {"name": "guest-exec-status", "enabled": true, "success-response": true}]})
}

fn exited(stdout: &[u8]) -> Value {
    json!({"exited": true, "exitcode": 0, "out-data": STANDARD.encode(stdout)})
}

/// A guest whose programs end at once and print what `print` says, given the word `K` of their environment.
fn printing(
    print: impl Fn(&str) -> Vec<u8> + Send + Sync,
) -> Scripted<impl Fn(&str, &Value) -> Answer + Send + Sync> {
    let word = Mutex::new(String::new());
    Scripted::new(move |command, arguments| match command {
        "guest-info" => ok(&info()),
        "guest-exec" => {
            let environment = arguments["env"].as_array().unwrap();
            let k = environment.iter().find_map(|entry| entry.as_str()?.strip_prefix("K="));
            *word.lock().unwrap() = k.unwrap_or_default().to_owned();
            ok(&json!({"pid": 77}))
        }
        _ => ok(&exited(&print(&word.lock().unwrap()))),
    })
}
