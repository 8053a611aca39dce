//! Drift of watched files: what is found against what was configured or found first.

use super::super::input;
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, Model};
use crate::policy::{FilePolicy, ServicePolicy};
use crate::sample::FileFound;
use crate::service::{DriftState, FileStatus, ServiceStatus};

/// What is known of a file, if it is the same one and should be the same.
pub(super) fn follow(policy: &FilePolicy, known: &[FileStatus]) -> FileStatus {
    let wanted = policy.sha256.as_deref().map(str::to_ascii_lowercase);
    let configured = wanted.is_some();
    let same = |file: &&FileStatus| {
        (&file.component, &file.path, file.configured) == (&policy.component, &policy.path, configured)
            && (!configured || file.expected_sha256 == wanted)
    };
    known.iter().find(same).cloned().unwrap_or_else(|| FileStatus {
        component: policy.component.clone(),
        path: policy.path.clone(),
        expected_sha256: wanted,
        configured,
        reason: "nobody has looked yet".to_owned(),
        ..FileStatus::default()
    })
}

pub(super) fn judge(file: &mut FileStatus, domain: Option<&DomainModel>, unix_ms: u64) {
    // What cannot be asked now has not changed.
    let Some(sample) = domain.and_then(|domain| domain.files.as_deref()) else { return };
    let found = sample.files.iter().find(|found| found.path == file.path).map(|found| &found.found);
    let (state, hash, reason) = match (found, &sample.trouble) {
        (None, None) => return,
        (None, Some(trouble)) => {
            // A state that was known stays, with the reason why it is old.
            if file.state == DriftState::Unknown {
                file.reason.clone_from(trouble);
            }
            return;
        }
        (Some(FileFound::Sha256(hash)), _) => {
            let expected = file.expected_sha256.get_or_insert_with(|| hash.clone());
            if expected == hash {
                (DriftState::Same, Some(hash.clone()), "unchanged".to_owned())
            } else {
                (DriftState::Changed, Some(hash.clone()), format!("SHA-256 is {hash} and was {expected}"))
            }
        }
        (Some(FileFound::Missing), _) => (DriftState::Missing, None, "there is no such file".to_owned()),
        (Some(FileFound::Unreadable(why)), _) => (DriftState::Unreadable, None, why.clone()),
        (Some(FileFound::TooLarge), _) => {
            (DriftState::TooLarge, None, "it is larger than 1 MiB and is not read".to_owned())
        }
    };
    if file.state != state || file.found_sha256 != hash {
        file.since_unix_ms = Some(unix_ms);
    }
    (file.state, file.found_sha256, file.reason) = (state, hash, reason);
}

pub(super) fn findings(service: &ServicePolicy, status: &ServiceStatus, model: &Model) -> Vec<Finding> {
    let off =
        status.files.iter().filter(|file| !matches!(file.state, DriftState::Same | DriftState::Unknown));
    let finding = |file: &FileStatus| {
        let component = service.component(&file.component)?;
        let domain = model.domains.iter().find(|domain| component.is_in(domain));
        let mut evidence = vec![input("service", &service.name), input("path", &file.path)];
        evidence.extend(file.expected_sha256.as_ref().map(|hash| input("expected_sha256", hash)));
        evidence.extend(file.found_sha256.as_ref().map(|hash| input("found_sha256", hash)));
        evidence.extend(file.since_unix_ms.map(|since| input("since_unix_ms", since)));
        Some(Finding {
            domain: domain.map(|domain| domain.uuid),
            domain_name: domain.map(|domain| domain.name.clone()),
            name: "file_drift".to_owned(),
            severity: Severity::Warning,
            summary: format!(
                "{} of component {} of service {} is not what it was: {}; if that is meant, write sha256 = \"...\" beside \
                 its path in {}",
                file.path, file.component, service.name, file.reason, service.source
            ),
            evidence,
        })
    };
    off.filter_map(finding).collect()
}
