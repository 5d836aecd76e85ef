//! Bytes as lower-case hexadecimal digits and back; and for serde, where they stand in JSON.

use serde::{Deserialize, Deserializer, Serializer};
use std::fmt::Write;

/// The digits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// It is made of lower-case digits only.
#[must_use]
pub fn are_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The bytes, where the text is an even number of digits.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// For `#[serde(with = "crate::hex")]`.
pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&encode(bytes))
}

/// For `#[serde(with = "crate::hex")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    decode(&text).ok_or_else(|| serde::de::Error::custom("no hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_digits() {
        assert_eq!((decode("00ff10"), encode(&[0, 255, 16])), (Some(vec![0, 255, 16]), "00ff10".into()));
        assert_eq!((decode("0"), decode("zz"), decode("é"), decode("")), (None, None, None, Some(Vec::new())));
    }
}
