//! Text for a model: bounded, with the beginning and the end kept.

/// Characters of one stream that a model is shown.
const LIMIT: usize = 30_000;

/// What is kept of a stream of any length while it comes: its first and its last bytes.
#[derive(Debug, Default)]
pub(crate) struct Excerpt {
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    left_out: u64,
}

impl Excerpt {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = (LIMIT / 2).saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(LIMIT / 2);
        self.tail.drain(..excess);
        self.left_out += excess as u64;
    }

    /// The text; bytes that are no UTF-8 are replaced.
    pub(crate) fn text(mut self) -> String {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let tail = String::from_utf8_lossy(self.tail.make_contiguous()).into_owned();
        match self.left_out {
            0 => {
                // One text again: a character may lie across the two.
                self.head.extend(self.tail);
                String::from_utf8_lossy(&self.head).into_owned()
            }
            bytes => format!("{head}\n[… {bytes} bytes are left out …]\n{tail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Excerpt, LIMIT};

    #[test]
    fn what_is_short_is_kept_whole_however_it_comes() {
        let text = "ä".repeat(LIMIT / 2 - 2) + "end";
        let mut excerpt = Excerpt::default();
        text.as_bytes()
            .chunks(7)
            .for_each(|part| excerpt.push(part));
        assert_eq!(excerpt.text(), text);
    }

    #[test]
    fn of_what_is_long_beginning_and_end_are_kept_and_the_gap_is_named() {
        let mut excerpt = Excerpt::default();
        excerpt.push(b"first");
        for _ in 0..100 {
            excerpt.push(&[b'.'; 10_000]);
        }
        excerpt.push(b"last");
        let text = excerpt.text();
        assert!(
            text.starts_with("first..") && text.ends_with("..last"),
            "{text}"
        );
        let gap = 1_000_009 - LIMIT;
        assert!(
            text.contains(&format!("{gap} bytes are left out")),
            "{text}"
        );
        assert!(text.len() < LIMIT + 100);
    }
}
