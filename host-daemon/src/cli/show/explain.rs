//! `kvmpilot explain` and `kvmpilot policy`.

use super::super::page::{Page, Screen, bad, doubtful, good};
use super::findings;
use crate::api::views::{
    ClassSource, ExplainView, MeansState, OwnWordView, PolicyView, SettingOrigin, SettingView,
};

pub(in super::super) fn explain(view: &ExplainView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let source = match view.class.source {
        ClassSource::Configured => "as configured",
        ClassSource::Rule => "as a rule says",
        ClassSource::Inferred => "found out from what it does",
    };
    page.line(&format!("{}: class {}, {source}", view.domain, view.class.class));
    if view.class.source != ClassSource::Inferred && view.class.inferred != view.class.class {
        page.line(&format!("    what it does looks like {}", view.class.inferred));
    }
    if !view.class.evidence.is_empty() {
        let evidence: Vec<_> =
            view.class.evidence.iter().map(|(name, value)| format!("{name} {value}")).collect();
        page.line(&format!("    {}", evidence.join(", ")));
    }
    findings(&mut page, &view.findings);

    page.heading("MEANS");
    let rows = view.means.iter().map(|means| {
        let state = match means.state {
            MeansState::Idle => "idle".to_owned(),
            MeansState::Acts => good("acts"),
            MeansState::Waits => doubtful("waits"),
            MeansState::Held => doubtful("held"),
            MeansState::Observes => "observes".to_owned(),
            MeansState::Refused => bad("refused"),
            MeansState::Paused => bad("paused"),
        };
        vec![means.means.to_string(), means.mode.to_string(), state, means.text.join("; ")]
    });
    page.table(&["MEANS", "MODE", "STATE", "~WHAT NEXT, OR WHY NOT"], rows.collect());

    page.heading("WHAT THE RULES SAY");
    if view.rules.is_empty() {
        page.line("nothing");
    } else {
        let rows = view.rules.iter().map(|says| {
            let about = says.application.clone().unwrap_or_else(|| "the domain".to_owned());
            vec![says.rule.clone(), about, says.then.clone()]
        });
        page.table(&["RULE", "ABOUT", "~THEN"], rows.collect());
    }

    page.heading("HELD AWAY FROM THE ORIGINAL");
    if view.held.is_empty() {
        page.line("nothing");
    } else {
        let rows =
            view.held.iter().map(|held| vec![held.what.clone(), held.original.clone(), held.ours.clone()]);
        page.table(&["VALUE", "~ORIGINAL", "~NOW"], rows.collect());
    }

    page.heading("SETTINGS");
    let rows =
        view.settings.iter().map(|setting| vec![setting.key.clone(), setting.value.clone(), origin(setting)]);
    page.table(&["SETTING", "~VALUE", "~SAID BY"], rows.collect());
    page.finish()
}

fn origin(setting: &SettingView) -> String {
    let place = setting.place.as_deref().unwrap_or_default();
    let who = match setting.origin {
        SettingOrigin::Default => "default".to_owned(),
        SettingOrigin::File => place.to_owned(),
        SettingOrigin::Metadata if place.is_empty() => "the domain's metadata".to_owned(),
        SettingOrigin::Metadata => format!("the domain's metadata ({place})"),
    };
    setting.note.as_ref().map_or_else(|| who.clone(), |note| format!("{who}; {note}"))
}

pub(in super::super) fn policy(view: &PolicyView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if let Some(message) = &view.message {
        page.line(message);
    }
    for note in &view.notes {
        page.line(&doubtful(note));
    }
    match (&view.running, &view.stored) {
        (Some(running), Some(stored)) if running == stored => {
            word(&mut page, "IN THE RUNNING DOMAIN AND ITS STORED CONFIGURATION", running);
        }
        (running, stored) => {
            if let Some(running) = running {
                word(&mut page, "IN THE RUNNING DOMAIN", running);
            }
            if let Some(stored) = stored {
                word(&mut page, "IN THE STORED CONFIGURATION", stored);
            }
        }
    }
    page.finish()
}

fn word(page: &mut Page, title: &str, word: &OwnWordView) {
    page.heading(title);
    if word.settings.is_empty() && word.problems.is_empty() {
        page.line("nothing about kvmpilot");
    }
    page.facts(word.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
    for problem in &word.problems {
        page.line(&format!("{}: {problem}", bad("wrong")));
    }
}
