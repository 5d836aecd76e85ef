//! What people and programs read: tables and text on a terminal, the daemon's own JSON elsewhere.

use crate::error::CliError;
use chrono::{DateTime, Utc};
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
        if self.terminal { self.line(&pretty(text)) } else { self.line(text) }
    }

    /// Text and a line end on standard output.
    pub(crate) fn line(self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Bytes on standard output, at once.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Output)
    }
}

/// Rows under headings, columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
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
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
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
    between(time, None).map_or_else(|| time.to_owned(), |micros| format!("{} ago", span(micros / 1_000_000 * 1_000_000)))
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
        assert_eq!(between("2026-01-01T00:00:00.000001Z", Some("2026-01-01T00:00:01.000003Z")), Some(1_000_002));
    }
}
