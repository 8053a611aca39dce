//! JSON schemas of the API's answers, kept in `docs/schema` for people and for tests.
//!
//! They are written anew with `KVMPILOT_WRITE_SCHEMAS=1 cargo test -p kvmpilot --lib schema`.

use kvmpilot_core::order::{Story, WorkOrder};
use kvmpilot_core::simulate::Report;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::views::{
    CommandReply, DoctorView, DomainDetailView, DomainsView, ExplainView, FindingsView, FlowsView,
    HistoryView, HostDetailView, LearnedView, NewTokenView, OrderMovedEvent, OrdersView, PolicyView, Problem,
    ProcessesView, ReplayView, RulesTestView, RulesView, ServiceView, ServicesView, StatusView, StealView,
    TickEvent, TokensView, VcpusView, VersionView, WatchView, WhoAmIView,
};

/// Every answer's name (`docs/schema/NAME.schema.json`) and schema.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Schema)> {
    vec![
        ("status", schema::<StatusView>()),
        ("domains", schema::<DomainsView>()),
        ("domain", schema::<DomainDetailView>()),
        ("processes", schema::<ProcessesView>()),
        ("flows", schema::<FlowsView>()),
        ("orders", schema::<OrdersView>()),
        ("order", schema::<WorkOrder>()),
        ("why", schema::<Story>()),
        ("command", schema::<CommandReply>()),
        ("replay", schema::<ReplayView>()),
        ("rules", schema::<RulesView>()),
        ("rules_test", schema::<RulesTestView>()),
        ("services", schema::<ServicesView>()),
        ("service", schema::<ServiceView>()),
        ("learned", schema::<LearnedView>()),
        ("steal", schema::<StealView>()),
        ("doctor", schema::<DoctorView>()),
        ("explain", schema::<ExplainView>()),
        ("policy", schema::<PolicyView>()),
        ("watch", schema::<WatchView>()),
        ("simulate", schema::<Report>()),
        ("host", schema::<HostDetailView>()),
        ("vcpus", schema::<VcpusView>()),
        ("findings", schema::<FindingsView>()),
        ("history", schema::<HistoryView>()),
        ("tick_event", schema::<TickEvent>()),
        ("order_event", schema::<OrderMovedEvent>()),
        ("whoami", schema::<WhoAmIView>()),
        ("new_token", schema::<NewTokenView>()),
        ("tokens", schema::<TokensView>()),
        ("version", schema::<VersionView>()),
        ("problem", schema::<Problem>()),
    ]
}

/// As it is written, not as it may be read: every field is there, unknown numbers as null.
fn schema<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_documented_schemas_are_the_generated_ones() {
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema"));
        let write = std::env::var_os("KVMPILOT_WRITE_SCHEMAS").is_some();
        let mut names = BTreeSet::new();
        for (name, schema) in schemas() {
            let name = format!("{name}.schema.json");
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if write {
                fs::write(directory.join(&name), &text).unwrap();
            }
            let documented = fs::read_to_string(directory.join(&name)).unwrap_or_default();
            assert!(
                documented == text,
                "docs/schema/{name} is not what the code says; KVMPILOT_WRITE_SCHEMAS=1 writes it anew"
            );
            names.insert(name);
        }
        let files: BTreeSet<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, names);
    }
}
