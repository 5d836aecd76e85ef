//! Whether a policy allows a request. Pure.
//!
//! A path is held against the policy in one form only, and is sent in that form: characters that need no `%XX` are written plainly, and what servers
//! take for more than one thing (`.`, `..`, empty segments, `\`, encoded `/`, `\`, `%` or control characters) is refused.

use crate::manifest::aux::Http;
use hyper::header::{CONNECTION, HeaderMap, UPGRADE};
use hyper::{Method, Request, Version};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// The method.
    #[error("method {0} is not in `methods`")]
    Method(String),
    /// The path.
    #[error("path {0} is not in `paths`")]
    Path(String),
    /// The path, whatever the policy says.
    #[error("the path {0}")]
    Form(&'static str),
    /// Another server's address.
    #[error("it is meant for {0}")]
    Elsewhere(String),
    /// Not an ordinary request.
    #[error("{0}")]
    Kind(&'static str),
}

/// Path and query as they are sent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form(pub(super) String);

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The one form of a path.
pub(super) fn canonical(path: &str) -> Result<String, Denied> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let decoded = bytes.next().and_then(hex).zip(bytes.next().and_then(hex)).map(|(high, low)| high << 4 | low);
                match decoded.ok_or(Denied::Form("has a % that two hexadecimal digits do not follow"))? {
                    b'/' | b'\\' | b'%' => return Err(Denied::Form("has an encoded /, \\ or %")),
                    0..=31 | 127 => return Err(Denied::Form("has an encoded control character")),
                    plain if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => out.push(plain.into()),
                    other => out.push_str(&format!("%{other:02X}")),
                }
            }
            b'\\' => return Err(Denied::Form("has a \\")),
            plain if plain.is_ascii_graphic() => out.push(plain.into()),
            _ => return Err(Denied::Form("has a character that must be encoded")),
        }
    }
    let Some(rest) = out.strip_prefix('/') else { return Err(Denied::Form("does not begin with /")) };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers take what follows a ; off before they look.
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name, "." | "..") {
            return Err(Denied::Form("has a segment . or .."));
        }
        if name.is_empty() && segments.peek().is_some() {
            return Err(Denied::Form("has an empty segment"));
        }
    }
    Ok(out)
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |head| path.starts_with(head))
}

fn upgrades(headers: &HeaderMap) -> bool {
    let asked = |value: &hyper::header::HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    };
    headers.contains_key(UPGRADE) || headers.get_all(CONNECTION).iter().any(asked)
}

/// The form in which a request of the service `name` is sent on.
pub(super) fn check<B>(server: &Http, name: &str, request: &Request<B>) -> Result<Form, Denied> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        return Err(Denied::Kind("tunnels (CONNECT) are not supported"));
    }
    if request.version() > Version::HTTP_11 || upgrades(request.headers()) {
        return Err(Denied::Kind("changes of the protocol (Upgrade) are not supported"));
    }
    let meant = uri.authority().map(|authority| (authority.host(), authority.as_str()));
    if let Some((_, whole)) = meant.filter(|(host, whole)| *host != name || whole.contains('@')) {
        return Err(Denied::Elsewhere(whole.chars().take(100).collect()));
    }
    if !server.methods.iter().any(|method| method == request.method().as_str()) {
        return Err(Denied::Method(request.method().as_str().chars().take(32).collect()));
    }
    let path = canonical(uri.path())?;
    if !server.paths.iter().any(|pattern| matches(pattern, &path)) {
        return Err(Denied::Path(path.chars().take(200).collect()));
    }
    Ok(Form(match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn server() -> Http {
        Http {
            tls: false,
            host: "h".into(),
            port: 80,
            methods: vec!["GET".into(), "POST".into()],
            paths: vec!["/v1/charges".into(), "/v1/items/*".into()],
            headers: Vec::new(),
        }
    }

    fn ask(method: &str, uri: &str) -> Result<String, Denied> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        check(&server(), "pay", &request).map(|form| form.0)
    }

    #[test]
    fn what_is_listed_is_allowed() {
        assert_eq!(ask("GET", "/v1/charges").unwrap(), "/v1/charges");
        assert_eq!(ask("POST", "/v1/charges?a=%2f..&b").unwrap(), "/v1/charges?a=%2f..&b");
        assert_eq!(ask("GET", "/v1/%63harges").unwrap(), "/v1/charges");
        assert_eq!(ask("GET", "/v1/items/a%20b/").unwrap(), "/v1/items/a%20b/");
        assert_eq!(ask("GET", "http://pay/v1/charges").unwrap(), "/v1/charges");
        assert_eq!(ask("GET", "http://pay:80/v1/charges").unwrap(), "/v1/charges");
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        assert!(matches!(ask("DELETE", "/v1/charges"), Err(Denied::Method(_))));
        assert!(matches!(ask("get", "/v1/charges"), Err(Denied::Method(_))));
        for path in ["/", "/v1", "/v1/charges/", "/v1/charges/1", "/V1/charges", "/v1/items", "/v1/itemsx/1"] {
            assert!(matches!(ask("GET", path), Err(Denied::Path(_))), "{path}");
        }
        assert!(matches!(ask("CONNECT", "h:80"), Err(Denied::Kind(_))));
        for elsewhere in ["http://other/v1/charges", "http://pay@other/v1/charges", "http://u@pay/v1/charges"] {
            assert!(matches!(ask("GET", elsewhere), Err(Denied::Elsewhere(_))), "{elsewhere}");
        }
        let upgrade = Request::builder().uri("/v1/charges").header("connection", "keep-alive, Upgrade").body(()).unwrap();
        assert!(matches!(check(&server(), "pay", &upgrade), Err(Denied::Kind(_))));
    }

    #[test]
    fn what_means_two_things_is_refused() {
        let tricks = [
            "/v1/items/../charges",
            "/v1/items/./x",
            "/v1/items/%2e%2e/admin",
            "/v1/items/%2E./admin",
            "/v1/items/..;a/admin",
            "/v1/items/..%2fadmin",
            "/v1/items/..%5cadmin",
            "/v1/items/%252e%252e/admin",
            "/v1/items//x",
            "//v1/charges",
            "/v1/items/%00",
            "/v1/items/%0d%0aX",
            "/v1/items/%2",
            "/v1/items/..",
        ];
        for path in tricks {
            assert!(matches!(ask("GET", path), Err(Denied::Form(_))), "{path}: {:?}", ask("GET", path));
        }
    }

    proptest! {
        #[test]
        fn the_one_form_is_its_own(path in "/[a-z%./;0-9A-F]{0,24}") {
            if let Ok(form) = canonical(&path) {
                prop_assert_eq!(canonical(&form), Ok(form.clone()));
                prop_assert!(!form.split('/').any(|part| part == ".." || part == "."));
            }
        }
    }
}
