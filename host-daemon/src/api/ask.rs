//! Questions and wishes that the daemon's loop answers itself: `explain`, a domain's own policy, a service to learn.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use kvmpilot_core::asker::Asker;
use kvmpilot_core::policy::Change;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::caller::Caller;
use super::command::CommandError;
use super::problem::Failure;
use super::routes::{Answer, Api};
use super::views::{ExplainView, LearnAsk, LearnedView, PolicyAsk, PolicyView};

/// Time for an answer: libvirt is asked a few times.
const PATIENCE: Duration = Duration::from_secs(30);

type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// A question or wish on its way to the daemon.
#[derive(Debug)]
pub enum Ask {
    /// What counts for the domain of this name or UUID, and why.
    Explain {
        /// The domain.
        domain: String,
        /// Where the answer goes. The asker may be gone by then.
        reply: Reply<ExplainView>,
    },
    /// A service of what runs and talks now.
    Learn {
        /// Its name and its domains.
        ask: LearnAsk,
        /// Where the answer goes. The asker may be gone by then.
        reply: Reply<LearnedView>,
    },
    /// What its own XML says about kvmpilot, after a change or as it is.
    Policy {
        /// The domain, which need not run.
        domain: String,
        /// The change and who asks for it; `None` to look.
        change: Option<(Change, Asker)>,
        /// Where the answer goes. The asker may be gone by then.
        reply: Reply<PolicyView>,
    },
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Name = Result<Path<String>, PathRejection>;

pub(super) async fn explain(State(api): Api, name: Name) -> Answer<ExplainView> {
    let domain = text(name)?;
    ask(&api, |reply| Ask::Explain { domain, reply }).await
}

pub(super) async fn learn(State(api): Api, body: Body<LearnAsk>) -> Answer<LearnedView> {
    let Json(learn) = body.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    ask(&api, |reply| Ask::Learn { ask: learn, reply }).await
}

pub(super) async fn show_policy(State(api): Api, name: Name) -> Answer<PolicyView> {
    let domain = text(name)?;
    ask(&api, |reply| Ask::Policy { domain, change: None, reply }).await
}

pub(super) async fn change_policy(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    name: Name,
    body: Body<PolicyAsk>,
) -> Answer<PolicyView> {
    let Json(PolicyAsk { set, unset, clear }) =
        body.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let domain = text(name)?;
    api.entitled(&caller, "change a domain's policy").await?;
    let change = Change { set: set.into_iter().collect(), unset, clear };
    ask(&api, |reply| Ask::Policy { domain, change: Some((change, caller.asker())), reply }).await
}

fn text(name: Name) -> Result<String, Failure> {
    name.map(|Path(name)| name).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
}

async fn ask<T>(api: &super::routes::Shared, ask: impl FnOnce(Reply<T>) -> Ask) -> Answer<T> {
    let (reply, answer) = oneshot::channel();
    let pass_on = async {
        api.asks().send(ask(reply)).await.map_err(|_| Failure::stopping())?;
        answer.await.map_err(|_| Failure::stopping())
    };
    let slow = |_| {
        let detail =
            format!("libvirt did not answer within {} s; a change may still be made", PATIENCE.as_secs());
        Failure::new(StatusCode::GATEWAY_TIMEOUT, detail)
    };
    Ok(Json(timeout(PATIENCE, pass_on).await.map_err(slow)???))
}
