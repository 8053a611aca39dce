//! Checks JSON against the documented schemas. `docs/schema` is all it needs, so other test packages can include this
//! file: `#[path = "../../host-daemon/tests/face/schema.rs"] mod schema;`.

use std::path::Path;

use boon::{Compiler, Schemas};
use serde_json::Value;

/// Panics, with the reasons, unless `json` is as `docs/schema/NAME.schema.json` says.
#[track_caller]
pub(crate) fn assert_valid(name: &str, json: &str) {
    if let Err(reasons) = validate(name, json) {
        panic!("not a valid {name}: {reasons}\n{json}");
    }
}

/// Checks `json` against `docs/schema/NAME.schema.json`.
pub(crate) fn validate(name: &str, json: &str) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/schema/{name}.schema.json"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let instance: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("schema.json", schema).unwrap();
    let compiled = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas.validate(&instance, compiled).map_err(|error| format!("{error:#}"))
}
