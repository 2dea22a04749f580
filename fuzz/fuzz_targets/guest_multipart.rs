//! A multipart body means the same however it is cut into pieces, and what is held
//! back of it is bounded.

#![no_main]

use hearth_guest::files::multipart::{Event, MultipartError, Parser};
use libfuzzer_sys::fuzz_target;

fn events(boundary: &str, body: &[u8], piece: usize) -> Result<Vec<Event>, MultipartError> {
    let mut parser = Parser::new(boundary)?;
    let mut events: Vec<Event> = Vec::new();
    for piece in body.chunks(piece) {
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

fuzz_target!(|input: (&str, &str, u8, &[u8])| {
    let (content_type, boundary, piece, body) = input;
    let _ = Parser::for_content_type(content_type);
    let boundary = if boundary.is_empty() { "b" } else { boundary };
    let whole = events(boundary, body, body.len().max(1));
    let pieces = events(boundary, body, usize::from(piece).max(1));
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        // Which of two faults is met first may depend on the pieces.
        (whole, pieces) => assert_eq!(whole.is_err(), pieces.is_err()),
    }
});
