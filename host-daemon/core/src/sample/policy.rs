//! What the administrator wrote into the domain's own XML about kvmpilot.

use serde::{Deserialize, Serialize};

/// The domain's `<kvmpilot:policy>` element, as it stands there. What it means is [`crate::policy`]'s business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySample {
    /// Its attributes in their order: name and value.
    pub settings: Vec<(String, String)>,
    /// What stands there and is no setting, in words.
    #[serde(default)]
    pub wrong: Vec<String>,
}
