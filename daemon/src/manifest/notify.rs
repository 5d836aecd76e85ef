//! Where the ends of executions may be told: URLs that callers give, and those that the administrator allows.
//!
//! ```toml
//! [caps]
//! notify = ["https://hooks.example.com/torpor/*", "http://10.0.0.7:8080"]   # none where it is not given
//! ```
//! Invariant: a [`Destination`] has one form only, in which it is held against what is allowed and in which it is called.

use super::aux::host_and_port;
use crate::aux::http::canonical;
use serde::{Deserialize, Serialize};

/// Longest URL, in bytes of its one form.
const MAX_URL: usize = 2048;
/// Most URLs of a cap.
pub const MAX_ALLOWED: usize = 64;

/// An HTTP URL to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    /// With TLS.
    pub tls: bool,
    /// Name in lower case, or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// In its one form.
    pub path: String,
    /// With its `?`; empty where there is none.
    pub query: String,
}

/// Scheme, host and port, and the rest of a URL.
fn origin(text: &str) -> Option<((bool, String, u16), &str)> {
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return None,
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#', '*']).unwrap_or(rest.len()));
    let (host, port) = host_and_port(authority)?;
    Some(((tls, host.to_ascii_lowercase(), port.unwrap_or(if tls { 443 } else { 80 })), rest))
}

impl Destination {
    /// The error is for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = || text.chars().take(100).collect::<String>();
        let wrong = |why: &str| format!("{:?} is no URL to call: {why}", shown());
        let ((tls, host, port), rest) =
            origin(text).ok_or_else(|| wrong("write it http://HOST/PATH or https://HOST/PATH, without user name and password"))?;
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let path = canonical(if path.is_empty() { "/" } else { path }).map_err(|why| wrong(&why))?;
        if path.contains('#') || !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(wrong("it has a #, or a character that must be encoded"));
        }
        let parsed = Self { tls, host, port, path, query: query.to_owned() };
        // As it is stored, and read again.
        if parsed.to_string().len() > MAX_URL {
            return Err(wrong("it has more than 2048 bytes"));
        }
        Ok(parsed)
    }

    /// Host and port, as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}{}", self.authority(), self.path, self.query)
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

/// What a cap allows: a server, a path of it with any query, or with `*` at its end all paths that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedUrl {
    origin: (bool, String, u16),
    path: Option<String>,
}

impl AllowedUrl {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} allows no URL; write \"https://HOST\", \"https://HOST/PATH\" or \"https://HOST/PATH/*\"");
        let (origin, path) = origin(text).ok_or_else(wrong)?;
        let plain = path.strip_suffix('*').unwrap_or(path);
        match path {
            "" => Ok(Self { origin, path: None }),
            // What begins with a part of a host's name may be anybody's.
            _ if !plain.starts_with('/') || plain.contains(['?', '#', '*']) || canonical(plain).is_ok_and(|form| form != plain) => {
                Err(wrong())
            }
            _ if canonical(plain).is_err() => Err(wrong()),
            _ => Ok(Self { origin, path: Some(path.to_owned()) }),
        }
    }

    /// It allows this one.
    #[must_use]
    pub fn allows(&self, to: &Destination) -> bool {
        let path = match &self.path {
            None => true,
            Some(path) => path.strip_suffix('*').map_or_else(|| *path == to.path, |head| to.path.starts_with(head)),
        };
        path && (self.origin.0, self.origin.1.as_str(), self.origin.2) == (to.tls, to.host.as_str(), to.port)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn allows(allowed: &str, url: &str) -> bool {
        AllowedUrl::parse(allowed).unwrap().allows(&Destination::parse(url).unwrap())
    }

    #[test]
    fn a_url_has_one_form() {
        for (url, form) in [
            ("https://Hooks.Example.com", "https://hooks.example.com/"),
            ("https://hooks.example.com:443/a%41?x=1&y=%20", "https://hooks.example.com/aA?x=1&y=%20"),
            ("http://10.0.0.7:8080?x", "http://10.0.0.7:8080/?x"),
            ("http://[::1]:80/", "http://[::1]/"),
        ] {
            let parsed = Destination::parse(url).unwrap();
            assert_eq!(parsed.to_string(), form);
            assert_eq!(Destination::parse(form).unwrap(), parsed);
        }
        for wrong in [
            "",
            "ftp://a/",
            "https://",
            "https:///a",
            "https://user@host/",
            "https://user:pass@host/",
            "https://host:0/",
            "https://host:99999/",
            "https://ho st/",
            "https://host/a/../b",
            "https://host/a/%2e%2e/b",
            "https://host//b",
            "https://host/a%2fb",
            "https://host/a#b",
            "https://host/?a#b",
            "https://host/a\\b",
            "https://host/a\r\nX: y",
            "https://host\\@evil/",
            "https://h\u{f6}st/",
            "HTTPS://host/",
            &format!("https://host/{}", "a".repeat(2048)),
        ] {
            assert!(Destination::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_counted_is_the_form_that_is_stored() {
        let with = |head: &str, len: usize| format!("{head}{}", "x".repeat(len - head.len()));
        assert!(Destination::parse(&with("https://host?", MAX_URL)).is_err(), "with its / it has a byte more");
        for url in [with("https://host?", MAX_URL - 1), with("https://host/?", MAX_URL), with("https://host:443/%41", MAX_URL + 6)] {
            let parsed = Destination::parse(&url).unwrap();
            assert_eq!((parsed.to_string().len(), Destination::parse(&parsed.to_string())), (MAX_URL, Ok(parsed.clone())));
        }
    }

    #[test]
    fn what_is_allowed_is_a_server_or_a_part_of_it() {
        assert!(allows("https://a.example", "https://a.example/x?y"));
        assert!(allows("https://A.example:443/hooks/*", "https://a.example/hooks/1?x"));
        assert!(allows("https://a.example/hook", "https://a.example/hook?x"));
        for (allowed, url) in [
            ("https://a.example", "http://a.example/"),
            ("https://a.example", "https://a.example:8443/"),
            ("https://a.example", "https://a.example.evil.test/"),
            ("https://a.example/hooks/*", "https://a.example/hooks"),
            ("https://a.example/hooks/*", "https://a.example/hooksmith"),
            ("https://a.example/hook", "https://a.example/hook/1"),
            ("https://a.example/hook", "https://a.example/?/hook"),
        ] {
            assert!(!allows(allowed, url), "{allowed} {url}");
        }
        for wrong in [
            "*",
            "https://*",
            "https://a.example*",
            "https://a.example/*/b",
            "https://a.example/a/../b",
            "https://a.example/?x",
            "a.example",
            "tcp:a:1",
        ] {
            assert!(AllowedUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_trick_leaves_what_is_allowed(tail in "[a-z%.2eEfF/\\\\;?#@:*]{0,24}") {
            if let Ok(url) = Destination::parse(&format!("https://a.example/hooks/{tail}")) {
                prop_assert_eq!((url.host.as_str(), url.port), ("a.example", 443));
                prop_assert!(url.path.starts_with("/hooks/"), "{}", url);
                prop_assert!(!url.path.split('/').any(|part| part == ".." || part == "."));
                prop_assert_eq!(Destination::parse(&url.to_string()), Ok(url.clone()));
            }
        }

        #[test]
        fn the_longest_url_is_read_again(host in "https?://a(:80|:443|:8443)?", tail in "[?/]([a-z]|%[46][1-9]){0,4}", under in 0usize..8) {
            let url = format!("{host}{tail}");
            let url = format!("{url}{}", "x".repeat(MAX_URL - url.len() - under));
            if let Ok(url) = Destination::parse(&url) {
                prop_assert!(url.to_string().len() <= MAX_URL);
                prop_assert_eq!(Destination::parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn any_text_is_a_url_or_not(text in "(https?://)?\\PC{0,60}") {
            if let Ok(url) = Destination::parse(&text) {
                prop_assert_eq!(Destination::parse(&url.to_string()), Ok(url));
            }
            let _ = AllowedUrl::parse(&text);
        }
    }
}
