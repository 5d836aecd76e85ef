//! Sizes and durations as people write them: a whole number and a unit, nothing else.

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
/// Read, not written: people say 24h.
const DAYS: [(&str, u64); 1] = [("d", 86_400_000)];

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// `"128MiB"` in bytes; units B, KiB, MiB, GiB.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    scaled(text, &SIZES)
}

/// `"30s"` in milliseconds; units ms, s, m, h, d.
#[must_use]
pub fn millis(text: &str) -> Option<u64> {
    scaled(text, &TIMES).or_else(|| scaled(text, &DAYS))
}

/// A size with the largest unit that leaves a whole number.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let (unit, scale) = SIZES.into_iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// A duration with the largest unit that leaves a whole number.
#[must_use]
pub fn format_millis(millis: u64) -> String {
    let mut units = TIMES;
    units.sort_by_key(|(_, scale)| std::cmp::Reverse(*scale));
    let (unit, scale) = units.into_iter().find(|(_, scale)| millis >= *scale && millis.is_multiple_of(*scale)).unwrap_or(("ms", 1));
    format!("{}{unit}", millis / scale)
}
