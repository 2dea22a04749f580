//! The checked-in OpenAPI document is the one that the code generates.

use std::collections::BTreeMap;
use std::path::Path;

/// Set to write the document instead of comparing it.
const WRITE: &str = "HEARTH_WRITE_OPENAPI";

#[test]
fn the_checked_in_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let generated = hearth_api::openapi_json();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &generated).expect("docs/ is writable");
    }
    let checked_in = std::fs::read_to_string(&path).expect("docs/openapi.json is there");
    assert!(
        checked_in == generated,
        "docs/openapi.json differs from the code: run this test with {WRITE}=1 and commit it"
    );
}

#[test]
fn every_operation_but_health_names_its_key_and_its_errors() {
    let document = serde_json::to_value(hearth_api::openapi()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 15);
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("operations") {
            if path == "/health" {
                continue;
            }
            let scheme = match path.split('/').nth(1) {
                Some("volumecontent") => "VolumeToken",
                Some("admin") => "AdminToken",
                _ => "ApiKeyAuth",
            };
            assert_eq!(
                operation["security"]
                    .as_array()
                    .and_then(|all| all.iter().find_map(|one| one.get(scheme))),
                Some(&serde_json::json!([])),
                "{method} {path}"
            );
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        }
    }
}

#[test]
fn every_operation_has_an_id_of_its_own_and_says_what_it_does() {
    let document = serde_json::to_value(hearth_api::openapi()).expect("JSON");
    let mut operations: BTreeMap<String, String> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let place = format!("{method} {path}");
            for field in ["operationId", "summary", "description"] {
                let text = operation[field].as_str().unwrap_or_default();
                assert!(!text.trim().is_empty(), "{place} lacks its {field}");
            }
            let id = operation["operationId"].as_str().expect("checked above");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(id.contains('_') && id.chars().all(plain), "{place}: {id}");
            let summary = operation["summary"].as_str().expect("checked above");
            assert!(!summary.contains('\n'), "{place}: {summary}");
            if let Some(other) = operations.insert(id.to_owned(), place.clone()) {
                panic!("{id} is the id of both {other} and {place}");
            }
        }
    }
    assert!(operations.len() > 40, "{}", operations.len());
}
