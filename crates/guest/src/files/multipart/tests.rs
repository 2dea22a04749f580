use proptest::prelude::*;

use super::*;

/// All events of a body that arrives in pieces, with adjacent data joined.
fn events(boundary: &str, body: &[u8], piece: usize) -> Result<Vec<Event>, MultipartError> {
    let mut parser = Parser::new(boundary)?;
    let mut events = Vec::new();
    for piece in body.chunks(piece.max(1)) {
        parser.push(piece);
        while let Some(event) = parser.poll()? {
            match (events.last_mut(), event) {
                (Some(Event::Data(before)), Event::Data(more)) => {
                    *before = [&before[..], &more[..]].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
    }
    parser.finish()?;
    Ok(events)
}

fn part(name: &str, filename: Option<&str>) -> Event {
    Event::Part(PartHeader {
        name: Some(name.to_owned()),
        filename: filename.map(str::to_owned),
    })
}

fn data(text: &[u8]) -> Event {
    Event::Data(Bytes::copy_from_slice(text))
}

const TWO_PARTS: &[u8] = b"ignored\r\n--b\r\n\
Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"x\\\".txt\"\r\n\
Content-Type: text/plain\r\n\r\nhello\r\n--bye\r\n-\r\n--b  \r\n\
content-disposition: form-data; name=other\r\n\r\n\r\n--b--\r\nepilogue\r\n--b";

#[test]
fn parts_are_found_however_the_body_is_cut() {
    let expected = [
        part("file", Some("a \"x\".txt")),
        data(b"hello\r\n--bye\r\n-"),
        Event::PartEnd,
        part("other", None),
        Event::PartEnd,
        Event::End,
    ];
    // "--bye" begins like the delimiter "--b" but is one: the boundary is "b".
    let body = String::from_utf8(TWO_PARTS.to_vec())
        .unwrap()
        .replace("--bye", "--Bye");
    let mut expected = expected.to_vec();
    expected[1] = data(b"hello\r\n--Bye\r\n-");
    for piece in 1..body.len() {
        assert_eq!(
            events("b", body.as_bytes(), piece).as_ref(),
            Ok(&expected),
            "{piece}"
        );
    }
}

#[test]
fn a_part_may_have_no_body_and_no_headers() {
    let expected = Ok(vec![
        Event::Part(PartHeader::default()),
        Event::PartEnd,
        Event::End,
    ]);
    for body in ["--b\r\n\r\n\r\n--b--", "--b\r\n\r\n--b--"] {
        for piece in 1..body.len() {
            assert_eq!(
                events("b", body.as_bytes(), piece),
                expected,
                "{body:?} {piece}"
            );
        }
    }
    assert_eq!(events("b", b"--b--", 5), Ok(vec![Event::End]));
}

#[test]
fn malformed_bodies_are_refused() {
    use MultipartError::{Delimiter, Headers, HeadersTooLong, Truncated};
    assert_eq!(events("b", b"", 1), Err(Truncated));
    assert_eq!(events("b", b"--b\r\nA: b\r\n\r\nbody", 3), Err(Truncated));
    assert_eq!(events("b", b"--bx\r\n\r\n--b--", 3), Err(Delimiter));
    assert_eq!(
        events("b", b"--b\r\nnonsense\r\n\r\n--b--", 3),
        Err(Headers)
    );
    assert_eq!(events("b", b"--b\r\n\xff: x\r\n\r\n--b--", 3), Err(Headers));
    let long = format!("--b\r\nA: {}", "x".repeat(MAX_HEADER_BYTES + 1));
    assert_eq!(events("b", long.as_bytes(), 1000), Err(HeadersTooLong));
}

#[test]
fn boundaries_are_read_from_the_content_type() {
    let parser = |text| Parser::for_content_type(text).map(|_| ());
    assert_eq!(parser("multipart/form-data; boundary=abc"), Ok(()));
    assert_eq!(
        parser("multipart/form-data; charset=x; boundary=\"a b\""),
        Ok(())
    );
    assert_eq!(parser("multipart/form-data"), Err(MultipartError::Boundary));
    assert_eq!(
        parser("multipart/form-data; boundary="),
        Err(MultipartError::Boundary)
    );
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    assert_eq!(parser(&long), Err(MultipartError::Boundary));
}

#[test]
fn names_are_unquoted() {
    let value = |text| parameter(text, "filename");
    assert_eq!(
        value(" name=\"a;b\"; filename=c.txt ").as_deref(),
        Some("c.txt")
    );
    assert_eq!(value("filename=\"a\\\\b\\c\"").as_deref(), Some("a\\b\\c"));
    assert_eq!(value("filename=\"open").as_deref(), None);
    assert_eq!(value("xfilename=\"a\"").as_deref(), None);
    let extended = extended_parameter("filename*=UTF-8''%C3%A9%20x", "filename*");
    assert_eq!(extended.as_deref(), Some("é x"));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5),
        piece in 1_usize..64,
    ) {
        let boundary = "hearth-boundary-1";
        let mut body = Vec::new();
        let mut expected = Vec::new();
        for content in &contents {
            body.extend_from_slice(b"--hearth-boundary-1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n");
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
            expected.push(part("file", Some("f")));
            if !content.is_empty() {
                expected.push(data(content));
            }
            expected.push(Event::PartEnd);
        }
        body.extend_from_slice(b"--hearth-boundary-1--");
        expected.push(Event::End);
        prop_assert_eq!(events(boundary, &body, piece), Ok(expected));
    }

    #[test]
    fn anything_else_is_an_error_not_a_panic(
        body in "(--b|\r\n|[a:; \"=]|Content-Disposition|\r\n\r\n|-){0,60}",
        piece in 1_usize..16,
    ) {
        let whole = events("b", body.as_bytes(), body.len());
        prop_assert_eq!(events("b", body.as_bytes(), piece), whole);
    }
}
