//! No query that a stranger can write opens a file.

#![no_main]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_guest::files::access::{FileQuery, Operation, authorize};
use hearth_guest::settings::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, bool, u32)| {
    let (query, read, now) = input;
    let query = FileQuery::parse(query);
    let mut settings = Settings::default();
    settings.set_access_token(Some("a token that no input holds: 5f1c0e9d".to_owned()));
    let operation = if read { Operation::Read } else { Operation::Write };
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(now.into());
    let headers = http::HeaderMap::new();
    assert!(authorize(&settings, &headers, &query, operation, now).is_err());
});
