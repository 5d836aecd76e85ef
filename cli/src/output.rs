//! What people and programs read: tables and text on a terminal, the daemon's own JSON elsewhere.

use crate::error::CliError;
use chrono::{DateTime, Utc};
use std::borrow::Cow;
use std::io::{IsTerminal, Write};

/// How standard output is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// `json`: asked for on the command line.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stdout().is_terminal() }
    }

    /// Whether to print JSON rather than tables.
    pub(crate) const fn wants_json(self) -> bool {
        self.json || !self.terminal
    }

    /// Whether JSON was asked for by name.
    pub(crate) const fn json_asked(self) -> bool {
        self.json
    }

    /// One JSON value on standard output: indented on a terminal, as it came elsewhere.
    pub(crate) fn json(self, text: &str) -> Result<(), CliError> {
        let text = text.trim_end();
        if self.terminal { self.line(&visible_json(&pretty(text))) } else { self.line(text) }
    }

    /// One JSON value on one line of standard output.
    pub(crate) fn json_line(self, text: &str) -> Result<(), CliError> {
        if self.terminal { self.line(&visible_json(text)) } else { self.line(text) }
    }

    /// Whether standard output is a terminal.
    pub(crate) const fn terminal(self) -> bool {
        self.terminal
    }

    /// Text and a line end on standard output.
    pub(crate) fn line(self, text: &str) -> Result<(), CliError> {
        let shown = if self.terminal { visible(text, "\n\t") } else { text.into() };
        self.bytes(format!("{shown}\n").as_bytes())
    }

    /// What a program printed: as it is, but on a terminal without what would command the terminal.
    pub(crate) fn printed(self, text: &str) -> Result<(), CliError> {
        let shown = if self.terminal { visible(text, "\n\t\r") } else { text.into() };
        self.bytes(shown.as_bytes())
    }

    /// Bytes on standard output, at once.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Output)
    }
}

/// Text and a line end on standard error; on a terminal without what would command it. Nobody is told when it can't be written.
pub(crate) fn complain(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let shown = if stderr.is_terminal() { visible(text, "\n\t") } else { text.into() };
    let _ = stderr.write_all(format!("{shown}\n").as_bytes());
}

/// Text with its control characters (C0, DEL, C1) but those in `keep` written like `\x1b`: guests choose part of what is shown, and a
/// terminal does what such characters tell it.
pub(crate) fn visible<'a>(text: &'a str, keep: &str) -> Cow<'a, str> {
    replaced(text, |c| c.is_control() && !keep.contains(c), |c| format!("\\x{:02x}", u32::from(c)))
}

/// The same for JSON, which stays JSON.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    replaced(json, |c| c.is_control() && !matches!(c, '\n' | '\t' | '\r'), |c| format!("\\u{:04x}", u32::from(c)))
}

fn replaced(text: &str, what: impl Fn(char) -> bool, with: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.chars().any(&what) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if what(c) { out.push_str(&with(c)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Rows under headings, columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows.iter().map(|row| row.iter().map(|cell| visible(cell, "")).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(AsRef::as_ref).collect())));
    lines.join("\n")
}

/// JSON text, indented by two; numbers and strings stay as they were written.
pub(crate) fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().filter(|c| *c != '\r').peekable();
    while let Some(c) = chars.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                quoted = c == '"';
                out.push(c);
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The first 12 digits of a version.
pub(crate) fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

/// A time span in the two largest units that say something.
pub(crate) fn span(micros: i64) -> String {
    const MILLI: i64 = 1_000;
    const SECOND: i64 = 1_000 * MILLI;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    if micros < MILLI {
        format!("{} us", micros.max(0))
    } else if micros < SECOND {
        format!("{}.{} ms", micros / MILLI, micros % MILLI / 100)
    } else if micros < MINUTE {
        format!("{}.{:02} s", micros / SECOND, micros % SECOND / 10_000)
    } else if micros < HOUR {
        format!("{} min {} s", micros / MINUTE, micros % MINUTE / SECOND)
    } else if micros < DAY {
        format!("{} h {} min", micros / HOUR, micros % HOUR / MINUTE)
    } else {
        format!("{} d {} h", micros / DAY, micros % DAY / HOUR)
    }
}

/// From one RFC 3339 time to another (or to now), in microseconds.
pub(crate) fn between(from: &str, to: Option<&str>) -> Option<i64> {
    let from = DateTime::parse_from_rfc3339(from).ok()?.to_utc();
    let to = match to {
        Some(to) => DateTime::parse_from_rfc3339(to).ok()?.to_utc(),
        None => Utc::now(),
    };
    (to - from).num_microseconds()
}

/// How long ago, for tables.
pub(crate) fn ago(time: &str) -> String {
    between(time, None).map_or_else(|| time.to_owned(), age)
}

/// How long until then, in microseconds.
pub(crate) fn left(time: &str) -> Option<i64> {
    between(&Utc::now().to_rfc3339(), Some(time))
}

/// How long until then, for tables.
pub(crate) fn until(time: &str) -> String {
    left(time).map_or_else(|| time.to_owned(), |left| if left > 0 { format!("in {}", span(left)) } else { "now".to_owned() })
}

fn age(micros: i64) -> String {
    let whole = micros / 1_000_000 * 1_000_000;
    // A clock that was set back makes times to come.
    if whole <= 0 { "just now".to_owned() } else { format!("{} ago", span(whole)) }
}

/// Bytes in the largest binary unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = None;
    let mut whole = bytes;
    let mut tenths = 0;
    for name in UNITS {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = Some(name);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{whole}.{tenths} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["wordcount".into(), "1".into()], vec!["é".into(), "22".into()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME       N\nwordcount  1\né          22");
    }

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(visible("a\x1b[2J\u{9b}1m\x7f\r\n\tb\u{a0}é", "\n\t"), "a\\x1b[2J\\x9b1m\\x7f\\x0d\n\tb\u{a0}é");
        assert_eq!(visible("50%\r\n\x07", "\n\t\r"), "50%\r\n\\x07");
        assert_eq!(visible_json("{\n\"a\": \"\u{9b}\x7f\"}"), "{\n\"a\": \"\\u009b\\u007f\"}");
        assert_eq!(table(&["A"], &[vec!["x\n\x1b".into()]]), "A\nx\\x0a\\x1b");
    }

    #[test]
    fn pretty_keeps_numbers_and_strings() {
        let json = r#"{"a":[1,-2.50e+300,{}],"b":"x\"{,:\\","c":[ ],"d":18446744073709551617}"#;
        let indented = "{\n  \"a\": [\n    1,\n    -2.50e+300,\n    {}\n  ],\n  \"b\": \"x\\\"{,:\\\\\",\n  \"c\": [],\n  \"d\": 18446744073709551617\n}";
        assert_eq!(pretty(json), indented);
        assert_eq!(pretty(indented), indented);
        assert_eq!(pretty("\"x\""), "\"x\"");
    }

    #[test]
    fn sizes_and_spans_read_well() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024 * 1536), "1.5 MiB");
        assert_eq!(span(999), "999 us");
        assert_eq!(span(12_345), "12.3 ms");
        assert_eq!(span(61_000_000), "1 min 1 s");
        assert_eq!([-5_000_000, 0, 999_999, 1_999_999].map(age), ["just now", "just now", "just now", "1.00 s ago"]);
        assert_eq!(between("2026-01-01T00:00:00.000001Z", Some("2026-01-01T00:00:01.000003Z")), Some(1_000_002));
    }
}
