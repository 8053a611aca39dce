//! Everything that the API can be asked: the one list from which both its router and its OpenAPI document are made.

use std::sync::{Arc, LazyLock};

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post};
use kvmpilot_core::order::{Story, WorkOrder};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::command::Command;
use super::record::{self, RecordQuery};
use super::routes::{self, OrderQuery, Shared};
use super::views::{
    CommandReply, DoctorView, DomainDetailView, DomainsView, ExplainView, FindingsView, FlowsView,
    HistoryView, HostDetailView, LearnAsk, LearnedView, NewTokenView, OrderMovedEvent, OrdersView, PolicyAsk,
    PolicyView, Problem, ProcessesView, RulesView, ServiceView, ServicesView, StatusView, StealView,
    TickEvent, TokenAsk, TokensView, VcpusView, WatchAsk, WatchView, WhoAmIView,
};
use super::{API_VERSION, ask, events, host, tokens};

/// Path below which all of it is.
pub(super) const BASE: &str = "/api/v1";

/// The document, which never changes while the daemon runs.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

type Handler = MethodRouter<Arc<Shared>>;

/// One question.
pub(super) struct Operation {
    method: &'static str,
    pub(super) path: &'static str,
    summary: &'static str,
    query: Option<fn(&mut SchemaGenerator) -> Schema>,
    body: Option<fn(&mut SchemaGenerator) -> Schema>,
    answer: (&'static str, fn(&mut SchemaGenerator) -> Schema),
    pub(super) handler: Handler,
}

const JSON: &str = "application/json";

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn look<A: JsonSchema>(path: &'static str, summary: &'static str, handler: Handler) -> Operation {
    Operation { method: "get", path, summary, query: None, body: None, answer: (JSON, schema::<A>), handler }
}

fn change<A: JsonSchema>(path: &'static str, summary: &'static str, handler: Handler) -> Operation {
    Operation { method: "post", ..look::<A>(path, summary, handler) }
}

impl Operation {
    fn query<Q: JsonSchema>(self) -> Self {
        Self { query: Some(schema::<Q>), ..self }
    }

    fn body<B: JsonSchema>(self) -> Self {
        Self { body: Some(schema::<B>), ..self }
    }

    fn of_kind(self, kind: &'static str) -> Self {
        Self { answer: (kind, self.answer.1), ..self }
    }
}

/// All of them.
#[rustfmt::skip]
pub(super) fn operations() -> Vec<Operation> {
    let order = |decide: fn(u64) -> Command| post(move |api, caller, id| routes::change(api, caller, id, decide));
    vec![
        look::<StatusView>("/status", "How the daemon and its host are", get(routes::status)),
        look::<HostDetailView>("/host", "The host and its pcpus", get(host::host)),
        look::<VcpusView>("/vcpus", "Where the vcpus of all domains run", get(host::vcpus)),
        look::<FindingsView>("/findings", "Conditions of the host and of all domains", get(host::findings)),
        look::<HistoryView>("/history", "How figures of a domain or of the host went", get(host::history))
            .query::<host::HistoryQuery>(),
        look::<(TickEvent, OrderMovedEvent)>("/events", "What happens: `tick`, `order` and `ping`", get(events::events))
            .of_kind("text/event-stream"),
        look::<DomainsView>("/domains", "All domains", get(routes::domains)).query::<routes::DomainQuery>(),
        look::<DomainDetailView>("/domains/{domain}", "One domain, by name or UUID", get(routes::domain)),
        look::<ProcessesView>("/domains/{domain}/processes", "What runs in its guest", get(routes::processes)),
        look::<FlowsView>("/domains/{domain}/flows", "Who it talks to", get(routes::flows)),
        look::<ExplainView>("/domains/{domain}/explain", "What counts for it, and why", get(ask::explain)),
        look::<PolicyView>("/domains/{domain}/policy", "What its own XML says about kvmpilot", get(ask::show_policy)),
        change::<PolicyView>("/domains/{domain}/policy", "Changes what its own XML says", post(ask::change_policy))
            .body::<PolicyAsk>(),
        change::<WatchView>("/domains/{domain}/watch", "Measures it for a while", post(routes::watch)).body::<WatchAsk>(),
        look::<OrdersView>("/orders", "Work orders, newest first", get(routes::orders)).query::<OrderQuery>(),
        look::<WorkOrder>("/orders/{id}", "One work order with its history", get(routes::order)),
        look::<Story>("/orders/{id}/why", "One work order told in words", get(routes::why)),
        change::<CommandReply>("/orders/{id}/approve", "Carries out a proposed order", order(Command::Approve)),
        change::<CommandReply>("/orders/{id}/reject", "Turns a proposed order down", order(Command::Reject)),
        change::<CommandReply>("/orders/{id}/rollback", "Undoes an order", order(Command::Rollback)),
        change::<CommandReply>("/restore", "Puts every original value back", post(routes::restore)),
        look::<StealView>("/steal", "Who ran while whose vcpus waited", get(routes::steal)),
        look::<Value>("/record", "A recording, one line for each sample", get(record::record))
            .query::<RecordQuery>().of_kind(record::NDJSON),
        look::<RulesView>("/rules", "The rules in force", get(routes::rules)),
        look::<ServicesView>("/services", "All services", get(routes::services)),
        look::<ServiceView>("/services/{name}", "One service and its transitions", get(routes::service)),
        change::<LearnedView>("/learn", "A service of what runs and talks now", post(ask::learn)).body::<LearnAsk>(),
        look::<DoctorView>("/doctor", "What could be better about the installation", get(routes::doctor)),
        look::<WhoAmIView>("/whoami", "Who the client is for kvmpilot", get(tokens::who_am_i)),
        look::<TokensView>("/tokens", "All tokens", get(tokens::list)),
        change::<NewTokenView>("/tokens", "Makes a token", post(tokens::create)).body::<TokenAsk>(),
        Operation { method: "delete", ..look::<TokensView>("/tokens/{name}", "Revokes a token", delete(tokens::revoke)) },
        look::<Value>("/openapi.json", "This document", get(openapi)),
    ]
}

async fn openapi(_request: Request) -> impl IntoResponse {
    ([(CONTENT_TYPE, JSON)], DOCUMENT.as_str())
}

/// The OpenAPI 3.1 document of the API.
#[must_use]
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .for_serialize()
        .into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for operation in operations() {
        let entry = paths.entry(format!("{BASE}{}", operation.path)).or_insert_with(|| json!({}));
        entry[operation.method] = described(&operation, &mut generator, &problem);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kvmpilot",
            "version": format!("{API_VERSION}"),
            "description": "What kvmpilotd shows and what it can be asked to do. Fields may be added within a version; \
                            existing ones keep name and meaning. Changes over TCP need the header `X-Kvmpilot: 1`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "token": [] }],
    })
}

fn described(operation: &Operation, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let kind = |name: &str| match name {
        "id" => json!({ "type": "integer", "minimum": 0 }),
        _ => json!({ "type": "string" }),
    };
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": kind(name) }))
        .collect();
    if let Some(query) = operation.query {
        parameters.extend(query_parameters(query));
    }
    let (media, answer) = operation.answer;
    let mut described = json!({
        "operationId": format!("{}{}", operation.method, operation.path.replace(['/', '{', '}', '.'], "_")),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "200": { "description": "What was asked for", "content": { media: { "schema": answer(generator) } } },
            "default": {
                "description": "What went wrong, and what to do",
                "content": { "application/problem+json": { "schema": problem } },
            },
        },
    });
    if let Some(body) = operation.body {
        let schema = SchemaSettings::draft2020_12()
            .with(|settings| {
                settings.inline_subschemas = true;
                settings.meta_schema = None;
            })
            .for_deserialize()
            .into_generator();
        described["requestBody"] = json!({
            "required": true,
            "content": { JSON: { "schema": inline(schema, body) } },
        });
    }
    described
}

fn inline(mut generator: SchemaGenerator, schema: fn(&mut SchemaGenerator) -> Schema) -> Schema {
    schema(&mut generator)
}

/// The fields of a query's type as parameters.
fn query_parameters(query: fn(&mut SchemaGenerator) -> Schema) -> Vec<Value> {
    let generator = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .for_deserialize()
        .into_generator();
    let schema = inline(generator, query);
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
    };
    properties.into_iter().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_documented_api_is_the_generated_one() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"));
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("KVMPILOT_WRITE_SCHEMAS").is_some() {
            fs::write(path, &text).unwrap();
        }
        let documented = fs::read_to_string(path).unwrap_or_default();
        assert!(documented == text, "docs/openapi.json is old; KVMPILOT_WRITE_SCHEMAS=1 writes it anew");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_what_it_takes() {
        let document = document();
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(
                    names.insert(operation["operationId"].as_str().unwrap().to_owned()),
                    "{method} {path}"
                );
                let parameters = operation["parameters"].as_array().unwrap();
                let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(path.matches('{').count(), in_path, "{method} {path}");
            }
        }
        let history = &document["paths"]["/api/v1/history"]["get"]["parameters"];
        assert!(
            history.as_array().unwrap().iter().any(|parameter| parameter["name"] == "step_s"),
            "{history}"
        );
    }
}
