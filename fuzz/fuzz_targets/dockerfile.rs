//! Whatever is called a Dockerfile becomes steps or an error.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let arguments = BTreeMap::from([("A".to_owned(), "${A:-$B}".to_owned())]);
    let _ = hearth_dockerfile::convert(text, &arguments);
});
