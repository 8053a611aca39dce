//! What people ask of the daemon: approve, reject, roll back, restore, reload.

use kvmpilot_core::Uuid;
use kvmpilot_core::asker::Asker;
use kvmpilot_core::ledger::RestoredValue;
use kvmpilot_core::order::WorkOrder;
use kvmpilot_core::policy::Actuator;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::{Daemon, mode_of};
use crate::act::Outcome;
use crate::api::views::{CommandReply, RestoreView};
use crate::api::{Command, CommandError, CommandRequest};
use crate::clock::unix_ms;
use crate::config;
use crate::record::Event;

pub(super) type Reply = oneshot::Sender<Result<CommandReply, CommandError>>;

impl Daemon {
    pub(super) fn command(&mut self, request: CommandRequest) {
        let CommandRequest { command, by, reply } = request;
        tracing::info!(?command, %by, "command");
        let now = self.began.elapsed();
        let order = match command {
            Command::Restore if self.on_spare => {
                let trouble = self.store.trouble().unwrap_or_default();
                return send(
                    reply,
                    Err(CommandError::Failed(format!("the originals are not known: {trouble}"))),
                );
            }
            Command::Restore => {
                self.paused = true;
                self.restore_replies.push(reply);
                self.restore_when_idle();
                return;
            }
            Command::Reject(id) => {
                let rejected = block_in_place(|| self.book.reject(id, &by, now, unix_ms()));
                let answer = rejected.and_then(|()| self.reply(id, format!("order {id} was rejected")));
                return send(reply, answer);
            }
            Command::Approve(id) => self.approve(id, &by),
            Command::Rollback(id) => self.undo(id),
        };
        match order {
            Ok(order) if order.proposal.action.actuator() == Actuator::Resize => {
                let message =
                    format!("order {} is approved; a person or an orchestrator has to do it", order.id);
                let answer = self.reply(order.id, message);
                send(reply, answer);
            }
            Ok(order) => {
                self.waiting.insert(order.id, reply);
                self.start_work(vec![order]);
            }
            Err(error) => send(reply, Err(error)),
        }
    }

    fn approve(&mut self, id: u64, by: &Asker) -> Result<WorkOrder, CommandError> {
        let domain = block_in_place(|| self.book.read(id))?.proposal.domain;
        self.check_free(domain)?;
        block_in_place(|| self.book.approve(id, by, unix_ms()))
    }

    fn undo(&mut self, id: u64) -> Result<WorkOrder, CommandError> {
        let domain = block_in_place(|| self.book.read(id))?.proposal.domain;
        self.check_free(domain)?;
        let now = self.began.elapsed();
        let proposal = self.book.undo(id, now)?;
        let mode = mode_of(&self.config.policy, &self.latest, &self.history);
        let mut orders = self
            .book
            .admit(vec![proposal], mode, now, unix_ms())
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        orders.pop().ok_or_else(|| CommandError::Failed("that is nothing that kvmpilot can undo".to_owned()))
    }

    fn check_free(&self, domain: Uuid) -> Result<(), CommandError> {
        if self.busy.contains(&domain) || self.leftovers.contains_key(&domain) {
            return Err(CommandError::Failed(
                "the domain is being changed; try again in a few seconds".to_owned(),
            ));
        }
        if let Some(trouble) = self.store_trouble() {
            return Err(CommandError::Failed(format!("nothing is changed: {trouble}")));
        }
        if !self.recovered || self.restoring {
            return Err(CommandError::Failed(
                "values are being put back; try again in a few seconds".to_owned(),
            ));
        }
        Ok(())
    }

    /// Tells whoever asked for this order what came of it.
    pub(super) fn answer(&mut self, order: &WorkOrder, outcome: &Outcome) {
        let Some(reply) = self.waiting.remove(&order.id) else { return };
        let answer = if outcome.state.is_in_force() {
            self.reply(order.proposal.undoes.first().copied().unwrap_or(order.id), outcome.text.clone())
        } else {
            Err(CommandError::Failed(outcome.text.clone()))
        };
        send(reply, answer);
    }

    fn reply(&self, id: u64, message: String) -> Result<CommandReply, CommandError> {
        Ok(CommandReply { message, order: Some(block_in_place(|| self.book.read(id))?), restore: None })
    }

    /// Starts a restore that somebody asked for as soon as nothing is under way.
    pub(super) fn restore_when_idle(&mut self) {
        if !self.restore_replies.is_empty() && self.busy.is_empty() && !self.restoring {
            self.start_restore();
        }
    }

    /// Tells whoever asked what went back.
    pub(super) fn answer_restore(&mut self, values: Vec<RestoredValue>) {
        let restore = RestoreView { values };
        let message = if restore.is_complete() {
            "everything is back; kvmpilot changes nothing until it is reloaded (SIGHUP) or restarted"
                .to_owned()
        } else {
            "not everything could be put back; `kvmpilot restore` tries again".to_owned()
        };
        for reply in std::mem::take(&mut self.restore_replies) {
            let reply_view =
                CommandReply { message: message.clone(), order: None, restore: Some(restore.clone()) };
            send(reply, Ok(reply_view));
        }
    }

    /// Reads the configuration again; a bad one changes nothing but the health.
    pub(super) fn reload(&mut self) {
        let path = self.config_path.as_deref();
        match block_in_place(|| config::load(path)) {
            Ok(mut config) => {
                let rules = block_in_place(|| config::load_rules(&config.rules_directory(path)));
                config.policy.rules = self.config.policy.rules.clone();
                self.rules_problem = None;
                match rules {
                    Ok(rules) => config.policy.rules = rules,
                    Err(error) => {
                        tracing::error!(%error, "the rules are bad; the last good ones stay in force");
                        let text = format!("the rules are bad, the last good ones are in force: {error}");
                        self.rules_problem = Some(text);
                    }
                }
                if config.daemon != self.config.daemon {
                    tracing::warn!(
                        "[daemon], [tcp], [otlp], [agent], [probes], [flows] and [store] take effect at the next start"
                    );
                }
                self.config.policy = config.policy;
                self.config.origins = config.origins;
                self.recordings.event(|| Event::Policy { policy: Box::new(self.config.policy.clone()) });
                self.config_problem = None;
                self.paused = false;
                tracing::info!("the configuration was read again");
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is bad; the last good one stays in force");
                self.config_problem =
                    Some(format!("the configuration is bad, the last good one is in force: {error}"));
            }
        }
        self.publish();
    }
}

fn send(reply: Reply, answer: Result<CommandReply, CommandError>) {
    // Whoever asked may be gone.
    let _ = reply.send(answer);
}
