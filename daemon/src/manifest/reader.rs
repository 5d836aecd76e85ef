//! A parsed TOML document, read with the line that each refusal is about.

use super::ManifestError;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Something that a manifest says, and the line on which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Said<T> {
    /// What.
    pub value: T,
    /// Counted from 1.
    pub line: u32,
}

pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
}

/// A table, its name, and where it is.
type Named<'t, 'a> = (&'t str, Range<usize>, &'t DeTable<'a>);

impl<'a> Reader<'a> {
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|b| **b == b'\n').count()
    }

    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ManifestError {
        ManifestError { line: self.line(&span), message: message.into() }
    }

    pub(super) fn said<T>(&self, value: T, span: &Range<usize>) -> Said<T> {
        Said { value, line: u32::try_from(self.line(span)).unwrap_or(u32::MAX) }
    }

    pub(super) fn table<'t>(&self, name: &str, value: &'t Value<'a>) -> Result<&'t DeTable<'a>, ManifestError> {
        value.get_ref().as_table().ok_or_else(|| self.error(value.span(), format!("{name:?} is not a table; write [{name}]")))
    }

    pub(super) fn known(&self, place: &str, table: &DeTable<'a>, keys: &[&str]) -> Result<(), ManifestError> {
        // First in the file, whatever order the table keeps.
        let unknown = table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())).min_by_key(|key| key.span().start);
        unknown.map_or(Ok(()), |key| {
            let message = format!("unknown key {:?} in {place}; known: {}", key.get_ref(), keys.join(", "));
            Err(self.error(key.span(), message))
        })
    }

    pub(super) fn string<'t>(&self, key: &str, value: &'t Value<'a>) -> Result<&'t str, ManifestError> {
        let found = value.get_ref().type_str();
        value.get_ref().as_str().ok_or_else(|| self.error(value.span(), format!("{key} is a text in quotes, not {found}")))
    }

    pub(super) fn required<'t>(
        &self,
        (place, head): (&str, &Range<usize>),
        table: &'t DeTable<'a>,
        key: &str,
    ) -> Result<(&'t str, Range<usize>), ManifestError> {
        let value = table.get(key).ok_or_else(|| self.error(head.clone(), format!("{place} has no {key}")))?;
        Ok((self.string(key, value)?, value.span()))
    }

    /// A text, where it is given, made into something else.
    pub(super) fn parsed<T>(
        &self,
        table: &DeTable<'a>,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Said<T>>, ManifestError> {
        let Some(value) = table.get(key) else { return Ok(None) };
        let parsed = read(self.string(key, value)?).map_err(|message| self.error(value.span(), message))?;
        Ok(Some(self.said(parsed, &value.span())))
    }

    /// A whole number, where it is given.
    pub(super) fn whole(
        &self,
        table: &DeTable<'a>,
        key: &str,
        range: &std::ops::RangeInclusive<u32>,
    ) -> Result<Option<Said<u32>>, ManifestError> {
        let Some(value) = table.get(key) else { return Ok(None) };
        let wrong = || self.error(value.span(), format!("{key} is a whole number from {} to {}", range.start(), range.end()));
        let number = value.get_ref().as_integer().ok_or_else(wrong)?;
        let number = u32::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong())?;
        if range.contains(&number) { Ok(Some(self.said(number, &value.span()))) } else { Err(wrong()) }
    }

    /// A list of texts, where it is given, each made into something else and none twice.
    pub(super) fn list<T: PartialEq>(
        &self,
        table: &DeTable<'a>,
        key: &str,
        most: usize,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Said<Vec<T>>>, ManifestError> {
        let Some(value) = table.get(key) else { return Ok(None) };
        let wrong = || self.error(value.span(), format!("{key} is a list of texts, such as [\"a\", \"b\"]"));
        let items = value.get_ref().as_array().ok_or_else(wrong)?;
        if items.len() > most {
            return Err(self.error(value.span(), format!("{key} has more than {most} entries")));
        }
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let text = item.get_ref().as_str().ok_or_else(wrong)?;
            let read = read(text).map_err(|message| self.error(item.span(), message))?;
            if list.contains(&read) {
                return Err(self.error(item.span(), format!("{key} names {text:?} twice")));
            }
            list.push(read);
        }
        Ok(Some(self.said(list, &value.span())))
    }

    /// The tables in a table of tables, such as all `[aux.NAME]`, in the order of the file.
    pub(super) fn tables<'t>(&self, table: &'t DeTable<'a>, key: &str) -> Result<Vec<Named<'t, 'a>>, ManifestError> {
        let Some(value) = table.get(key) else { return Ok(Vec::new()) };
        let named = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.error(value.span(), format!("{key:?} is not a table of tables; write [{key}.NAME]")))?;
        let mut tables = Vec::with_capacity(named.len());
        for (name, value) in named {
            let own = self.table(&format!("{key}.{}", name.get_ref()), value)?;
            tables.push((name.get_ref().as_ref(), name.span(), own));
        }
        tables.sort_by_key(|(_, span, _)| span.start);
        Ok(tables)
    }
}
