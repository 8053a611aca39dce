//! [`ExplainView`]: what counts for one domain, who said so, what kvmpilot holds, and what it would do next or why not.

use std::collections::BTreeMap;

use kvmpilot_core::Uuid;
use kvmpilot_core::finding::Finding;
use kvmpilot_core::policy::{Actuator, Class, Mode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ClassSource;

/// Everything that counts for one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainView {
    /// libvirt's name.
    pub domain: String,
    /// libvirt's UUID.
    pub uuid: Uuid,
    /// What it is for.
    pub class: ClassView,
    /// The means that kvmpilot has, and what each would do next or why not.
    pub means: Vec<MeansView>,
    /// What the rules say of it now.
    pub rules: Vec<RuleSaysView>,
    /// What kvmpilot holds away from its original now.
    pub held: Vec<HeldView>,
    /// Every setting that counts for it.
    pub settings: Vec<SettingView>,
    /// Conditions of this domain.
    pub findings: Vec<Finding>,
}

/// What a domain is for, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassView {
    /// The class that counts.
    pub class: Class,
    /// Who says so.
    pub source: ClassSource,
    /// What was measured when it was inferred last, name and value; also where the inferred class does not count.
    pub evidence: Vec<(String, String)>,
    /// The class that was inferred.
    pub inferred: Class,
}

/// One means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeansView {
    /// Which.
    pub means: Actuator,
    /// How far it may go with this domain.
    pub mode: Mode,
    /// Where it stands.
    pub state: MeansState,
    /// What it would do next, or why nothing: one sentence each, the most important first.
    pub text: Vec<String>,
    /// Work orders of it that wait for approval.
    pub orders: Vec<u64>,
}

/// Where a means stands with a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeansState {
    /// Nothing has to be done.
    Idle,
    /// It wants a change, and makes it.
    Acts,
    /// It wants a change, which waits for approval.
    Waits,
    /// It wants a change, which is held back for now.
    Held,
    /// It only looks.
    Observes,
    /// It cannot or must not do anything with this domain.
    Refused,
    /// kvmpilot changes nothing at all now.
    Paused,
}

/// What one rule says of a domain now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleSaysView {
    /// Its name.
    pub rule: String,
    /// What it does, as it is written in a rule file.
    pub then: String,
    /// The application of the guest that it is about; null where it is the domain.
    pub application: Option<String>,
}

/// A value that kvmpilot holds away from its original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldView {
    /// Which value.
    pub what: String,
    /// As it was found.
    pub original: String,
    /// As kvmpilot set it.
    pub ours: String,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingView {
    /// Its name: that of `kvmpilot policy set` where it can be set for a domain, else `section.option` of the configuration.
    pub key: String,
    /// Its value, as it is written.
    pub value: String,
    /// Who gave it.
    pub origin: SettingOrigin,
    /// Where it is written: `FILE:LINE`, or the attribute of the metadata.
    pub place: Option<String>,
    /// What else there is to know: who asked for something else.
    pub note: Option<String>,
}

/// Who gave a setting its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettingOrigin {
    /// kvmpilot itself.
    Default,
    /// A file of the configuration.
    File,
    /// The domain's own XML.
    Metadata,
}

/// What a domain's own XML says about kvmpilot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    /// libvirt's name.
    pub domain: String,
    /// libvirt's UUID.
    pub uuid: Uuid,
    /// What was done, if something was to be done.
    pub message: Option<String>,
    /// What counts less than it says, and why.
    pub notes: Vec<String>,
    /// In the XML of the running domain; null where it does not run.
    pub running: Option<OwnWordView>,
    /// In the stored XML, with which it starts next time; null where there is none.
    pub stored: Option<OwnWordView>,
}

/// What one XML says about kvmpilot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnWordView {
    /// The settings, name and value; empty where it says nothing.
    pub settings: BTreeMap<String, String>,
    /// What is wrong; then the domain is only observed, and none of the settings counts.
    pub problems: Vec<String>,
}

/// How to change what a domain's own XML says about kvmpilot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyAsk {
    /// Settings to set, name and value.
    pub set: BTreeMap<String, String>,
    /// Settings to take out.
    pub unset: Vec<String>,
    /// Whether all are taken out first.
    pub clear: bool,
}
