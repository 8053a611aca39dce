//! `kvmpilot why`: a work order told as a colleague would.

use kvmpilot_core::order::{Story, WorkOrder};

use super::super::page::{Page, Screen};
use super::super::words::time;
use crate::users::name_of;

pub(in super::super) fn why(order: &WorkOrder, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let story = Story::new(order, name_of);
    page.line(&story.title);
    for section in &story.sections {
        page.heading(&section.heading);
        for (at, line) in section.lines.iter().enumerate() {
            let when = line.unix_ms.map_or_else(String::new, |unix_ms| format!("{}  ", time(unix_ms)));
            page.line(&format!("  {when}{}", line.text));
            if at == 0 && !section.facts.is_empty() {
                let names: Vec<String> =
                    section.facts.iter().map(|(name, _)| format!("    {name}")).collect();
                let values = section.facts.iter().map(|(_, value)| value.clone());
                page.facts(names.iter().map(String::as_str).zip(values));
            }
        }
        if section.heading == Story::DONE {
            super::order::steps(&mut page, &order.proposal.action);
        }
    }
    page.finish()
}
