//! The metadata filter of lists.
//!
//! Clients escape each key and value, join them as a query string, and put that
//! into the query of the URL, so the text is decoded three times; the first time
//! has happened when it arrives here.

use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

/// Reads a filter that was decoded once. A pair that occurs twice holds as it
/// occurs last.
pub(crate) fn parse(text: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(text.as_bytes())
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (unescape(&key), unescape(&value)))
        .collect()
}

fn unescape(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn query_value(query: &str) -> String {
        let (_, value) = form_urlencoded::parse(query.as_bytes())
            .next()
            .expect("one pair");
        value.into_owned()
    }

    #[test]
    fn what_the_sdks_send_is_read() {
        let sent = "metadata=a%252520b%3Dc%252526d%252F%2525C3%2525A9";
        let expected = BTreeMap::from([("a b".to_owned(), "c&d/é".to_owned())]);
        assert_eq!(parse(&query_value(sent)), expected);
    }

    #[test]
    fn what_a_person_types_is_read() {
        let expected = BTreeMap::from([
            ("user".to_owned(), "abc".to_owned()),
            ("app".to_owned(), "prod".to_owned()),
        ]);
        assert_eq!(parse("user=abc&app=prod"), expected);
        assert_eq!(parse(""), BTreeMap::new());
    }

    proptest! {
        #[test]
        fn any_metadata_survives_the_encodings(
            metadata in proptest::collection::btree_map(".{1,10}", ".{0,10}", 0..4)
        ) {
            let escape = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let inner = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(metadata.iter().map(|(k, v)| (escape(k), escape(v))))
                .finish();
            let outer = form_urlencoded::Serializer::new(String::new())
                .append_pair("metadata", &inner)
                .finish();
            prop_assert_eq!(parse(&query_value(&outer)), metadata);
        }
    }
}
