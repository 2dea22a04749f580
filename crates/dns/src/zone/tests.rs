use super::*;
use proptest::prelude::*;

const HEADER: usize = 12;
const A: u16 = 1;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn zone() -> Zone {
    let addresses = vec![[192, 0, 2, 7].into(), "2001:db8::7".parse().expect("valid")];
    Zone::new("sbx.example.com", addresses).expect("valid")
}

fn query(name: &str, kind: u16, extended: bool) -> Vec<u8> {
    let mut query = vec![
        0xab,
        0xcd,
        0x01,
        0x20,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(extended),
    ];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).expect("short"));
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend(CLASS_IN.to_be_bytes());
    if extended {
        query.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    }
    query
}

fn counts(answer: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| number(answer, at).expect("a header"))
}

#[test]
fn every_name_below_the_domain_is_this_host() {
    for name in [
        "sbx.example.com",
        "api.SBX.example.com",
        "8080-x.sbx.example.com",
        "a.b.sbx.example.com",
    ] {
        let query = query(name, A, false);
        let answer = zone().answer(&query, None).expect("a query");
        assert_eq!(
            answer[..4],
            [0xab, 0xcd, 0x85, 0x00],
            "{name}: authoritative, no error"
        );
        assert_eq!(counts(&answer), [1, 1, 0, 0]);
        assert_eq!(
            answer[HEADER..query.len()],
            query[HEADER..],
            "the question as it was"
        );
        assert!(answer.ends_with(&[0, 4, 192, 0, 2, 7]));
    }
    let answer = zone()
        .answer(&query("x.sbx.example.com", AAAA, true), None)
        .expect("a query");
    assert_eq!(counts(&answer), [1, 1, 0, 1]);
}

#[test]
fn what_there_is_none_of_is_an_authoritative_nothing() {
    let answer = zone()
        .answer(&query("x.sbx.example.com", TXT, false), None)
        .expect("a query");
    assert_eq!((answer[3] & 0x0f, counts(&answer)), (0, [1, 0, 1, 0]));
    let apex = zone()
        .answer(&query("sbx.example.com", SOA, false), None)
        .expect("a query");
    assert_eq!(counts(&apex), [1, 1, 0, 0]);
}

#[test]
fn others_names_are_refused() {
    for name in [
        "example.com",
        "notsbx.example.com",
        "sbx.example.com.evil",
        "",
    ] {
        let answer = zone()
            .answer(&query(name, A, false), None)
            .expect("a query");
        assert_eq!((answer[3] & 0x0f, counts(&answer)[1]), (5, 0), "{name}");
    }
}

#[test]
fn what_is_no_query_gets_no_answer_and_nonsense_an_error() {
    let mut response = query("sbx.example.com", A, false);
    response[2] |= 0x80;
    assert_eq!(zone().answer(&response, None), None);
    let mut notify = query("sbx.example.com", A, false);
    notify[2] = 0x20;
    assert_eq!(
        zone().answer(&notify, None).expect("an answer")[3] & 0x0f,
        4
    );
    let mut pointer = query("sbx.example.com", A, false);
    pointer[HEADER] = 0xc0;
    assert_eq!(
        zone().answer(&pointer, None).expect("an answer")[3] & 0x0f,
        1
    );
    let mut newer = query("sbx.example.com", A, true);
    let version = newer.len() - 5;
    newer[version] = 1;
    let answer = zone().answer(&newer, None).expect("an answer");
    assert_eq!(
        (answer[3] & 0x0f, counts(&answer)),
        (0, [1, 0, 0, 1]),
        "BADVERS is 16"
    );
    assert_eq!(answer[answer.len() - 6], 1);
}

#[test]
fn too_much_for_udp_is_truncated() {
    let many = (0..100).map(|last| [192, 0, 2, last].into()).collect();
    let zone = Zone::new("x.example", many).expect("valid");
    let query = query("x.example", A, false);
    let answer = zone.answer(&query, None).expect("a query");
    assert_eq!((answer.len(), answer[2] & 0x02), (query.len(), 2));
    let answer = zone
        .answer(&query, Some(usize::from(u16::MAX)))
        .expect("a query");
    assert_eq!(counts(&answer)[1], 100);
}

#[test]
fn domains_are_checked() {
    for domain in ["", ".", "a..b", &"x".repeat(64), &"abc.".repeat(64)] {
        assert_eq!(
            Zone::new(domain, Vec::new()).err(),
            Some(ZoneError),
            "{domain}"
        );
    }
}

proptest! {
    /// Whatever comes: no panic, no answer larger than allowed, none that could be
    /// taken for a query, and the id of the query.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Some(answer) = zone().answer(&bytes, None) {
            prop_assert!(answer.len() <= usize::from(OUR_UDP));
            prop_assert!(answer[2] & 0x80 != 0);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }

    #[test]
    fn nearly_queries(at in 0usize..60, value in any::<u8>(), cut in 0usize..60) {
        let mut query = query("8080-x.sbx.example.com", A, true);
        if let Some(byte) = query.get_mut(at) {
            *byte = value;
        }
        query.truncate(query.len().saturating_sub(cut));
        if let Some(answer) = zone().answer(&query, None) {
            prop_assert!(answer.len() >= HEADER);
        }
    }
}

#[test]
fn proofs_for_certificate_authorities_are_texts_of_one_name() {
    let zone = zone().with_challenges(|| vec!["one".to_owned(), "two".to_owned()]);
    let asked = query("_ACME-challenge.sbx.example.com", TXT, false);
    let answer = zone.answer(&asked, None).expect("a query");
    assert_eq!(counts(&answer), [1, 2, 0, 0]);
    assert!(answer.ends_with(b"\x00\x04\x03two"));
    for name in ["sbx.example.com", "a._acme-challenge.sbx.example.com"] {
        let answer = zone
            .answer(&query(name, TXT, false), None)
            .expect("a query");
        assert_eq!(counts(&answer)[1], 0, "{name}");
    }
}
