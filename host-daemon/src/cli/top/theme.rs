//! How things look: with colours, or where there are none with what every terminal has.

use kvmpilot_core::decide::ResourceState;
use ratatui::style::{Color, Modifier, Style};

#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) colour: bool,
}

impl Theme {
    const fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) const fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    pub(super) const fn doubtful(self) -> Style {
        self.coloured(Color::Yellow)
    }

    pub(super) const fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What is of less interest.
    pub(super) const fn quiet(self) -> Style {
        self.coloured(Color::DarkGray)
    }

    pub(super) const fn title(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// The title of what the table is sorted by.
    pub(super) const fn sorted(self) -> Style {
        self.title().add_modifier(Modifier::UNDERLINED)
    }

    pub(super) const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A figure of a resource in this state.
    pub(super) const fn resource(self, state: ResourceState) -> Style {
        match state {
            ResourceState::Over => self.bad(),
            ResourceState::Ok | ResourceState::Under | ResourceState::Unknown => Style::new(),
        }
    }
}
