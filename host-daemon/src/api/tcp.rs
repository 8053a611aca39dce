//! The gate for clients that come over TCP: whom their token makes them, and what a browser must not be talked into.

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::problem::Failure;
use super::tokens::Tokens;
use crate::config::Access;

/// What requests that change something have to carry: a page of another site cannot send it without asking first (CORS),
/// and the answer to that is never yes.
const OWN_HEADER: &str = "x-kvmpilot";

#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) tokens: Tokens,
    pub(super) access: Access,
    /// Without TLS on loopback, names of other sites may lead here (DNS rebinding).
    pub(super) plain: bool,
}

pub(super) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match gate.check(&request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

impl Gate {
    fn check(&self, request: &Request) -> Result<Caller, Refused> {
        let headers = request.headers();
        if self.plain && !is_for_loopback(headers) {
            let detail = "this address is for programs of this machine; ask for localhost or 127.0.0.1";
            return Err(Refused::Failure(Failure::new(StatusCode::MISDIRECTED_REQUEST, detail)));
        }
        let looks = [Method::GET, Method::HEAD].contains(request.method());
        if !looks && !headers.contains_key(OWN_HEADER) {
            let detail =
                "changes over TCP need the header \"X-Kvmpilot: 1\", which pages of other sites cannot send";
            return Err(Refused::Failure(Failure::new(StatusCode::FORBIDDEN, detail)));
        }
        match headers.get(AUTHORIZATION) {
            Some(value) => {
                let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
                token.and_then(|token| self.tokens.caller(token.trim())).ok_or(Refused::BadToken)
            }
            None if self.access != Access::Token => Ok(Caller::Anybody(self.access)),
            // The console itself holds nothing; it asks for the token.
            None if looks && is_console(request.uri().path()) => Ok(Caller::Anybody(Access::Token)),
            None => Err(Refused::NoToken),
        }
    }
}

fn is_console(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/")
}

fn is_for_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    // `[::1]:8765`, `127.0.0.1:8765`, `localhost`
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

enum Refused {
    NoToken,
    BadToken,
    Failure(Failure),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let detail = match self {
            Self::Failure(failure) => return failure.into_response(),
            Self::NoToken => "clients need a token: `kvmpilot token create NAME` on the host makes one",
            Self::BadToken => "this token is not good, or not any more",
        };
        let mut response = Failure::new(StatusCode::UNAUTHORIZED, detail).into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_names_do_not_lead_here() {
        for (host, is_ours) in [
            ("localhost", true),
            ("localhost:8765", true),
            ("127.0.0.1:8765", true),
            ("127.8.8.8", true),
            ("[::1]:8765", true),
            ("[::1]", true),
            ("evil.example:8765", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1:8765", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
            assert_eq!(is_for_loopback(&headers), is_ours, "{host}");
        }
        assert!(!is_for_loopback(&HeaderMap::new()));
    }
}
