//! XDR (RFC 4506), as far as NFS needs it. Lengths are compared with a bound and with
//! what there is before anything is taken for them.

/// What was sent is not what the procedure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Takes values off the front of a message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_be_bytes)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Opaque data of a length that is known. `N` must be a multiple of four.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Opaque data or a string of at most `most` bytes.
    pub(crate) fn opaque(&mut self, most: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > most {
            return Err(Malformed);
        }
        let padded = length.next_multiple_of(4);
        let (data, rest) = self.rest.split_at_checked(padded).ok_or(Malformed)?;
        self.rest = rest;
        data.get(..length).ok_or(Malformed)
    }

    /// A value that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        self.bool()?.then(|| value(self)).transpose()
    }
}

/// Collects the values of a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Opaque data of a length that both sides know, a multiple of four.
    pub(crate) fn fixed(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    pub(crate) fn opaque(&mut self, data: &[u8]) {
        self.u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(data);
        self.pad(data.len());
    }

    /// Opaque data of at most `most` bytes, which `fill` puts at the place that it is
    /// given and counts. On an error the message is as it was.
    pub(crate) fn filled<E>(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.bytes.len();
        self.bytes.resize(start + 4 + most, 0);
        let outcome = fill(self.bytes.get_mut(start + 4..).unwrap_or_default());
        let length = match &outcome {
            Ok(length) => (*length).min(most),
            Err(_) => {
                self.bytes.truncate(start);
                return outcome;
            }
        };
        self.bytes.truncate(start + 4 + length);
        self.patch(start, u32::try_from(length).unwrap_or(u32::MAX));
        self.pad(length);
        Ok(length)
    }

    /// Puts a value in the place of one that was written before.
    pub(crate) fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Takes back all that was written after this length.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn pad(&mut self, length: usize) {
        let zeros = length.next_multiple_of(4) - length;
        self.bytes.resize(self.bytes.len() + zeros, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_beyond_the_bound_or_the_message_are_refused() {
        let huge = u32::MAX.to_be_bytes();
        assert_eq!(Reader::new(&huge).opaque(usize::MAX), Err(Malformed));
        let mut five = Writer::default();
        five.opaque(b"12345");
        let five = five.into_bytes();
        assert_eq!(Reader::new(&five).opaque(5), Ok(&b"12345"[..]));
        assert_eq!(Reader::new(&five).opaque(4), Err(Malformed));
        assert_eq!(
            Reader::new(&five[..11]).opaque(5),
            Err(Malformed),
            "padding"
        );
    }

    #[test]
    fn data_in_place_is_opaque_data() {
        let fill = |room: &mut [u8]| {
            room[..3].copy_from_slice(b"abc");
            Ok::<_, ()>(3)
        };
        let mut writer = Writer::default();
        writer.filled(100, fill).unwrap();
        writer.filled(100, |_| Err(())).unwrap_err();
        let mut usual = Writer::default();
        usual.opaque(b"abc");
        assert_eq!(writer.into_bytes(), usual.into_bytes());
    }
}
