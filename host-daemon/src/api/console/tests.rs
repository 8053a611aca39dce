//! What is served, with which headers, and what must not be in the sources.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::*;

async fn ask(path: &str, tag: Option<&HeaderValue>) -> Response {
    let mut request = Request::get(path);
    if let Some(tag) = tag {
        request = request.header(IF_NONE_MATCH, tag);
    }
    let service = TowerToHyperService::new(router::<()>().with_state(()));
    service.call(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn text(asset: &Asset) -> &'static str {
    std::str::from_utf8(asset.content).unwrap()
}

/// Our own sources; what is vendored is checked by its authors.
fn own() -> impl Iterator<Item = &'static Asset> {
    ASSETS.iter().filter(|asset| !asset.path.starts_with("vendor/"))
}

#[tokio::test]
async fn every_file_is_served_with_its_type_and_the_policy() {
    for asset in ASSETS {
        let path =
            if asset.path == "index.html" { "/".to_owned() } else { format!("/assets/{}", asset.path) };
        let answer = ask(&path, None).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name| answer.headers()[name].to_str().unwrap().to_owned();
        let kind = match path.rsplit_once('.').map_or("", |(_, kind)| kind) {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ if path == "/" => "text/html; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        assert_eq!(header(CONTENT_TYPE), kind, "{path}");
        assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(header(REFERRER_POLICY), "no-referrer");
        let policy = header(CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert_eq!(body, asset.content, "{path}");
    }
}

#[tokio::test]
async fn what_a_browser_has_is_not_sent_again_and_nothing_else_is_there() {
    let first = ask("/assets/main.js", None).await;
    let tag = &first.headers()[ETAG];
    let again = ask("/assets/main.js", Some(tag)).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(&again.headers()[ETAG], tag);
    assert!(again.headers().contains_key(CONTENT_SECURITY_POLICY));
    assert_eq!(to_bytes(again.into_body(), 1 << 20).await.unwrap().len(), 0);
    assert_eq!(ask("/assets/base.css", Some(tag)).await.status(), StatusCode::OK);
    for nothing in ["/assets/none.js", "/assets/../Cargo.toml", "/assets/%2e%2e/Cargo.toml", "/assets/"] {
        assert_eq!(ask(nothing, None).await.status(), StatusCode::NOT_FOUND, "{nothing}");
    }
}

#[test]
fn every_file_of_the_directory_is_in_the_list() {
    fn walk(directory: &std::path::Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web"), "", &mut found);
    let mut listed: Vec<&str> = ASSETS.iter().map(|asset| asset.path).collect();
    found.sort();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

/// Imports are followed from the page on: each leads to a file, and no file is forgotten.
#[test]
fn every_file_that_is_referred_to_exists() {
    let exists = |path: &str| ASSETS.iter().any(|asset| asset.path == path);
    let index = text(&ASSETS[0]);
    let mut count = 0;
    for reference in index.split("assets/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(exists(reference), "index.html refers to {reference}");
        count += 1;
    }
    assert!(count >= 4, "{count}");
    for asset in own().filter(|asset| asset.path.ends_with(".js")) {
        for (_, rest) in
            text(asset).match_indices(" from \"").map(|(at, found)| text(asset).split_at(at + found.len()))
        {
            let import = rest.split('"').next().unwrap();
            let directory = asset.path.rsplit_once('/').map(|(directory, _)| directory);
            let target = match (import.strip_prefix("./"), import.strip_prefix("../"), directory) {
                (Some(name), _, Some(directory)) => format!("{directory}/{name}"),
                (Some(name), _, None) | (_, Some(name), Some(_)) => name.to_owned(),
                _ => panic!("{}: import of {import}", asset.path),
            };
            assert!(exists(&target), "{} imports {import}", asset.path);
        }
    }
}

#[test]
fn nothing_of_a_guest_can_become_markup_and_nobody_else_is_asked() {
    const FORBIDDEN: [&str; 9] = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "http://",
        "https://",
        "setAttribute(\"style\"",
    ];
    for asset in own() {
        // The name of a namespace is no address.
        let text = text(asset).replace("http://www.w3.org/2000/svg", "");
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{} has {word}", asset.path);
        }
        for (number, line) in text.lines().enumerate() {
            assert!(line.len() <= 220, "{}:{} is too long", asset.path, number + 1);
        }
    }
    let index = text(&ASSETS[0]);
    assert!(!index.contains("<style") && !index.contains(" style=") && !index.contains(" on"), "inline");
    for script in index.split("<script").skip(1) {
        assert!(script.split('>').next().unwrap().contains(" src=\""), "an inline script");
    }
}

/// The whole console, uncompressed, is within what its first page may cost.
#[test]
fn it_is_small() {
    let total: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
    assert!(total < 300_000, "{total} bytes");
    let longest = own().map(|asset| (text(asset).lines().count(), asset.path)).max().unwrap();
    assert!(longest.0 < 400, "{longest:?}");
}

/// Pages are imported by a name that is put together: each of them must be one of the list.
#[test]
fn every_page_is_there() {
    let main = own().find(|asset| asset.path == "main.js").map(text).unwrap();
    let list = main.split("const PAGES = {").nth(1).unwrap().split('}').next().unwrap();
    let mut named: Vec<String> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|name| !name.is_empty())
        .map(|name| format!("pages/{name}.js"))
        .collect();
    let mut there: Vec<&str> =
        own().map(|asset| asset.path).filter(|path| path.starts_with("pages/")).collect();
    named.sort();
    there.sort_unstable();
    assert_eq!(named, there);
}
