//! Recordings under way: what was decided on, turn by turn, goes to those who asked for it.

use std::sync::Arc;

use kvmpilot_core::sample::Sample;

use super::Daemon;
use super::insides::Insides;
use crate::api::RecordingRequest;
use crate::clock::unix_ms;
use crate::record::{Event, FORMAT, Header, Line, Recorded, State, changes};
use kvmpilot_core::windows::{Due, Moment};

/// Recordings at a time. Each may hold some samples that its client has not read yet.
const SIDE_BY_SIDE: usize = 2;

/// Recordings under way.
#[derive(Debug, Default)]
pub(super) struct Recordings(Vec<Recording>);

#[derive(Debug)]
struct Recording {
    client: RecordingRequest,
    /// As the client knows them.
    insides: Insides,
    /// Since the last turn.
    events: Vec<Event>,
}

impl Recordings {
    /// Whether there are any.
    pub(super) fn wanted(&self) -> bool {
        !self.0.is_empty()
    }

    /// Notes what happens between two turns.
    pub(super) fn event(&mut self, event: impl FnOnce() -> Event) {
        if self.wanted() {
            let event = event();
            self.0.iter_mut().for_each(|recording| recording.events.push(event.clone()));
        }
    }

    /// Adds a turn. Who cannot take it is dropped.
    pub(super) fn add(&mut self, sample: &Arc<Sample>, moment: Moment, due: Due, insides: &Insides) {
        self.0.retain_mut(|recording| {
            let mut events = std::mem::take(&mut recording.events);
            events.extend(changes(&recording.insides, insides));
            recording.insides.clone_from(insides);
            let Moment { now: at, wall_unix_s: unix_s } = moment;
            let turn = Recorded { at, unix_s, events, sample: Arc::clone(sample), due };
            let sent = recording.client.send(Arc::new(Line::Turn(Box::new(turn))));
            if !sent {
                tracing::info!("a recording ended: its client is gone or too slow");
            }
            sent
        });
    }
}

impl Daemon {
    /// Begins a recording with the state of this moment.
    pub(super) fn start_recording(&mut self, client: RecordingRequest) {
        if self.recordings.0.len() >= SIDE_BY_SIDE {
            tracing::warn!("more than {SIDE_BY_SIDE} recordings at a time: one was refused");
            return;
        }
        let insides = self.insides();
        let state =
            State { history: self.history.clone(), windows: self.windows.clone(), insides: insides.clone() };
        let header = Header {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host_name.clone(),
            kernel: self.kernel_release.clone(),
            at: self.began.elapsed(),
            started_unix_ms: unix_ms(),
            policy: self.config.policy.clone(),
            state,
        };
        if client.send(Arc::new(Line::Header(Box::new(header)))) {
            tracing::info!("a recording begins");
            self.recordings.0.push(Recording { client, insides, events: Vec::new() });
        }
    }
}
