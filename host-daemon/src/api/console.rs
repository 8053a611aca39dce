//! The web console: a fixed list of files, served from memory. What is in them is in `host-daemon/web`; nothing is built, and
//! nothing is asked of any other host.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::problem::Failure;

/// Only what comes from the daemon itself may run, look like something or be asked; nobody may put the console in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// One file of the console.
struct Asset {
    /// Path below `host-daemon/web`.
    path: &'static str,
    content: &'static [u8],
}

/// The list of files, each embedded.
macro_rules! assets {
    ($($path:literal)*) => {
        &[$(Asset { path: $path, content: include_bytes!(concat!("../../web/", $path)) }),*]
    };
}

const ASSETS: &[Asset] = assets![
    "index.html"
    "api.js"
    "ask.js"
    "base.css"
    "charts.js"
    "dom.js"
    "domain/explain.js"
    "domain/guest.js"
    "domain/host.js"
    "format.js"
    "graph.js"
    "icon.svg"
    "live.js"
    "main.js"
    "orders.js"
    "overtime.js"
    "pages/domain.js"
    "pages/health.js"
    "pages/map.js"
    "pages/orders.js"
    "pages/overview.js"
    "pages/services.js"
    "pages/steal.js"
    "parts.css"
    "parts.js"
    "series.js"
    "theme.js"
    "trace.js"
    "vendor/uplot/LICENSE"
    "vendor/uplot/uPlot.iife.min.js"
    "vendor/uplot/uPlot.min.css"
    "why.js"
];

/// The console's routes: its page at `/`, everything else below `/assets/`.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|headers: HeaderMap, uri: Uri| async move { serve("index.html", &headers, &uri) }))
        .route(
            "/assets/{*path}",
            get(|Path(path): Path<String>, headers: HeaderMap, uri: Uri| async move {
                serve(&path, &headers, &uri)
            }),
        )
}

fn serve(path: &str, headers: &HeaderMap, uri: &Uri) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return Failure::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            .into_response();
    };
    let tag = asset.tag();
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let known = known.is_some_and(|tags| tags.split(',').any(|one| one.trim() == tag));
    let mut answer = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, asset.media_type())], asset.content).into_response()
    };
    let fixed = [
        // A browser may keep it, and asks each time whether it is still the same: modules of two versions never mix.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
    answer
        .headers_mut()
        .extend(fixed.into_iter().map(|(name, value)| (Some(name), value)).collect::<Vec<_>>());
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

impl Asset {
    fn media_type(&self) -> &'static str {
        match self.path.rsplit_once('.').map(|(_, kind)| kind) {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// The same for the same content, as an `ETag`.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

#[cfg(test)]
mod tests;
