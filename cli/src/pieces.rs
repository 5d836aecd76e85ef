//! A body of logs, taken apart while it comes: `{"entries":[{..},{..}],"truncated":..,"next":..}`. Invariant: at most [`MAX_ENTRY`] bytes
//! are held, however long the log is.

/// Most bytes of one entry, and of all that is not an entry.
pub(crate) const MAX_ENTRY: usize = 8 << 20;

/// Bytes in, the JSON of entries out.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    depth: usize,
    quoted: bool,
    escaped: bool,
    /// Inside the array of entries.
    entries: bool,
    /// The entry that is not whole yet.
    entry: Vec<u8>,
    /// The body without its entries.
    rest: Vec<u8>,
}

impl Pieces {
    /// Takes one byte; gives an entry when that made it whole.
    pub(crate) fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        let inside = self.entries && self.depth > 2;
        if self.quoted {
            self.quoted = self.escaped || byte != b'"';
            self.escaped = byte == b'\\' && !self.escaped;
            self.keep(inside, byte);
            return None;
        }
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                if self.entries {
                    self.entry.push(byte);
                    return None;
                }
                self.rest.push(byte);
                self.entries = self.depth == 2 && byte == b'[' && names_entries(&self.rest);
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.keep(inside, byte);
                if inside && self.depth == 2 {
                    return Some(std::mem::take(&mut self.entry));
                }
                self.entries &= self.depth >= 2;
            }
            // Between two entries.
            b',' if self.entries && self.depth == 2 => {}
            byte => {
                self.quoted = byte == b'"';
                self.keep(inside, byte);
            }
        }
        None
    }

    fn keep(&mut self, inside: bool, byte: u8) {
        if inside { self.entry.push(byte) } else { self.rest.push(byte) }
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.entry.len() + self.rest.len()
    }

    /// The body without its entries, once all of it has come.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.rest
    }
}

/// Whether an array that begins here is that of the entries.
fn names_entries(before: &[u8]) -> bool {
    let text: Vec<u8> = before.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    text.ends_with(b"\"entries\":[")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_apart(body: &str) -> (Vec<String>, String) {
        let mut pieces = Pieces::default();
        let entries = body.bytes().filter_map(|byte| pieces.push(byte));
        let entries = entries.map(|entry| String::from_utf8_lossy(&entry).into_owned()).collect();
        (entries, String::from_utf8_lossy(&pieces.rest()).into_owned())
    }

    #[test]
    fn entries_come_one_by_one() {
        let (entries, rest) = take_apart(r#"{"entries":[{"text":"a\"]},{\\"},{"text":"","x":[{}]}],"truncated":true,"next":9}"#);
        assert_eq!(entries, [r#"{"text":"a\"]},{\\"}"#, r#"{"text":"","x":[{}]}"#]);
        assert_eq!(rest, r#"{"entries":[],"truncated":true,"next":9}"#);
    }

    #[test]
    fn what_a_newer_daemon_adds_stays_whole() {
        let body = r#"{"more":{"a":[1,2]},"list":[{"b":1},{}], "entries" : [ ],"truncated":false}"#;
        assert_eq!(take_apart(body), (Vec::new(), body.to_owned()));
    }

    #[test]
    fn a_long_log_is_not_held() {
        let mut pieces = Pieces::default();
        let (mut entries, mut most) = (0, 0);
        let log = std::iter::repeat_n(r#"{"text":"0123456789"},"#, 100_000);
        for byte in std::iter::once(r#"{"entries":["#).chain(log).chain([r#"{"text":"x"}],"truncated":false}"#]).flat_map(str::bytes) {
            entries += usize::from(pieces.push(byte).is_some());
            most = most.max(pieces.held());
        }
        assert_eq!(entries, 100_001);
        assert!(most < 100, "{most}");
    }
}
