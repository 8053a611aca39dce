//! [`Metadata`]: what a domain's own XML says, read with the same table as everything else. What is not understood makes
//! nothing more active: then the domain is only observed.

use super::keys::{Key, key_names};
use super::wishes::Wishes;
use crate::sample::PolicySample;

/// What a domain's `<kvmpilot:policy>` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// What it wants; nothing at all where something in it is wrong.
    pub wishes: Wishes,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something wrong in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The attribute, where it is one that can be taken out by its name.
    pub attribute: Option<String>,
    /// What is wrong.
    pub text: String,
}

impl Metadata {
    /// Reads what stands in the XML.
    #[must_use]
    pub fn read(sample: &PolicySample) -> Self {
        let mut wishes = Wishes::default();
        let mut problems: Vec<Problem> =
            sample.wrong.iter().map(|text| Problem { attribute: None, text: text.clone() }).collect();
        for (at, (name, text)) in sample.settings.iter().enumerate() {
            let problem = match Key::named(name) {
                None => Some(format!("there is no setting {name}; the settings are {}", key_names())),
                Some(_) if sample.settings.iter().take(at).any(|(other, _)| other == name) => {
                    Some(format!("{name} stands there more than once"))
                }
                Some(key) => key.read(&mut wishes, text).err(),
            };
            problems.extend(problem.map(|text| Problem { attribute: Some(name.clone()), text }));
        }
        if let (Some(min), Some(max)) = (wishes.weight.min, wishes.weight.max)
            && min > max
        {
            let text = format!("weight.min ({min}) is more than weight.max ({max})");
            problems.push(Problem { attribute: Some("weight.min".to_owned()), text });
        }
        if !problems.is_empty() {
            wishes = Wishes::default();
        }
        Self { wishes, problems }
    }

    /// Whether all of it was understood.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}
