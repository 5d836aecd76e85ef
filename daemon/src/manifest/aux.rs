//! Auxiliary services: what a portion may talk to outside of its VM, and how.
//!
//! ```toml
//! [aux.ledger]
//! connect = "tcp:127.0.0.1:5432"        # or "unix:/run/x.sock"
//! port = 5432                           # of the local name in the guest; that of the service where it is not given
//! on_park = "refuse"                    # or "hold", "close": what becomes of open connections when the execution would be parked
//! connections = 8                       # at once, 1 to 64
//! bytes = "64MiB"                       # of one execution, both ways together
//!
//! [aux.pay]
//! http = "https://api.example.com"
//! methods = ["GET", "POST"]
//! paths = ["/v1/charges", "/v1/charges/*"]
//! headers = { Authorization = "Bearer {secret:pay-token}" }   # added by the daemon; the guest never sees them
//! ```

use super::ManifestError;
use super::names::{AuxName, SecretName};
use super::reader::Reader;
use super::units;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use toml::de::DeTable;

/// Most auxiliary services of a portion, and entries of a cap's list of them.
pub const MAX_AUX: usize = 16;
const CONNECTIONS: std::ops::RangeInclusive<u32> = 1..=64;
const CONNECTIONS_DEFAULT: u32 = 8;
const BYTES: std::ops::RangeInclusive<u64> = (1 << 10)..=(1 << 40);
const BYTES_DEFAULT: u64 = 64 << 20;
const HTTP_PORT: u16 = 80;
const MAX_PATHS: usize = 64;
const MAX_HEADERS: usize = 16;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Headers that belong to the connection, not to who is called: the broker sets them itself.
const OWN_HEADERS: [&str; 8] =
    ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"];

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A TCP port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Absolute path on the host.
        path: String,
    },
    /// An HTTP server, of which some requests are allowed.
    Http(Http),
}

/// An HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// With TLS.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Allowed methods.
    pub methods: Vec<String>,
    /// Allowed paths; one that ends with `*` stands for all that begin so.
    pub paths: Vec<String>,
    /// Headers that are added to each request.
    pub headers: Vec<(String, Template)>,
}

/// A text with secrets in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(pub Vec<Part>);

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// As it is.
    Text(String),
    /// The value of a secret.
    Secret(SecretName),
}

/// What becomes of open connections when the execution would be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPark {
    /// The daemon keeps them open, and what comes meanwhile waits.
    Hold,
    /// They are closed; the guest sees them closed when it goes on.
    Close,
    /// It is not parked while there is one.
    Refuse,
}

impl OnPark {
    /// Its name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Close => "close",
            Self::Refuse => "refuse",
        }
    }
}

/// An auxiliary service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aux {
    /// Its local name.
    pub name: AuxName,
    /// Where it is.
    pub target: Target,
    /// TCP port that the local name has in the guest; none for a Unix socket that is given none.
    pub port: Option<u16>,
    /// What becomes of open connections.
    pub on_park: OnPark,
    /// Most connections of one execution at once.
    pub connections: u32,
    /// Most bytes of one execution, both ways together.
    pub bytes: u64,
    /// Line of the manifest.
    pub line: u32,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{path}"),
            Self::Http(Http { tls, host, port, .. }) => match (tls, port) {
                (true, 443) => write!(f, "https://{host}"),
                (false, 80) => write!(f, "http://{host}"),
                (true, port) => write!(f, "https://{host}:{port}"),
                (false, port) => write!(f, "http://{host}:{port}"),
            },
        }
    }
}

impl Aux {
    /// Secrets that the daemon adds to what goes there.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let headers: &[(String, Template)] = if let Target::Http(http) = &self.target { &http.headers } else { &[] };
        headers.iter().flat_map(|(_, value)| &value.0).filter_map(|part| match part {
            Part::Secret(name) => Some(name),
            Part::Text(_) => None,
        })
    }
}

/// Services that a cap allows: one, or with `*` at its end all whose address begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(String);

impl Allowed {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let whole = ["tcp:", "unix:/", "http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) || text == "*";
        let star = text.find('*').is_none_or(|at| at + 1 == text.len());
        if whole && star {
            Ok(Self(text.to_owned()))
        } else {
            let form = "\"tcp:HOST:PORT\", \"unix:/PATH\", \"http://HOST\" or \"https://HOST\", with \"*\" only at its end";
            Err(format!("{text:?} allows no auxiliary service; write {form}"))
        }
    }

    /// It allows this one.
    #[must_use]
    pub fn allows(&self, target: &Target) -> bool {
        let address = target.to_string();
        self.0.strip_suffix('*').map_or_else(|| self.0 == address, |head| address.starts_with(head))
    }
}

/// A host name or an address; an IPv6 address is in brackets.
pub(super) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{address}]"), rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))?)
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            (named.then(|| host.to_owned())?, port)
        }
    };
    let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|port| *port != 0)?) };
    Some((host, port))
}

fn connect(text: &str) -> Result<Target, String> {
    let wrong = || format!("connect {text:?} is neither \"tcp:HOST:PORT\" nor \"unix:/PATH\"");
    if let Some(path) = text.strip_prefix("unix:") {
        // The length of `sun_path` less its final zero.
        let usable = path.starts_with('/') && path.len() <= 107 && !path.contains('\0') && !path.split('/').any(|part| part == "..");
        return if usable { Ok(Target::Unix { path: path.to_owned() }) } else { Err(wrong()) };
    }
    let (host, port) = text.strip_prefix("tcp:").and_then(host_and_port).ok_or_else(wrong)?;
    Ok(Target::Tcp { host, port: port.ok_or_else(wrong)? })
}

fn server(text: &str) -> Result<(bool, String, u16), String> {
    let wrong = || format!("http {text:?} is neither \"https://HOST\" nor \"http://HOST\", with \":PORT\" where it is another");
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(wrong()),
    };
    let (host, port) = host_and_port(rest.strip_suffix('/').unwrap_or(rest)).ok_or_else(wrong)?;
    Ok((tls, host, port.unwrap_or(if tls { 443 } else { 80 })))
}

fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) { Ok(text.to_owned()) } else { Err(format!("method {text:?} is none of {}", METHODS.join(", "))) }
}

fn path(text: &str) -> Result<String, String> {
    let plain = text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\\%".contains(&b));
    let star = text.find('*').is_none_or(|at| at + 1 == text.len());
    if plain && star && !text.split('/').any(|part| matches!(part, "." | "..")) {
        Ok(text.to_owned())
    } else {
        Err(format!("path {text:?} is no path such as \"/v1/items\" or, for all that begin so, \"/v1/items/*\""))
    }
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') || text.len() > 4096 {
            return Err("a header's value is printable ASCII of at most 4096 bytes".into());
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{secret:") {
            let (name, after) = after.split_once('}').ok_or("a header's {secret: has no }")?;
            let name = SecretName::try_from(name.to_owned()).map_err(|why| format!("secret {name:?}: {why}"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Secret(name));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }
}

fn headers(reader: &Reader<'_>, table: &DeTable<'_>) -> Result<Vec<(String, Template)>, ManifestError> {
    let Some(value) = table.get("headers") else { return Ok(Vec::new()) };
    let named = reader.table("headers", value)?;
    if named.len() > MAX_HEADERS {
        return Err(reader.error(value.span(), format!("more than {MAX_HEADERS} headers")));
    }
    let mut headers: Vec<(String, Template)> = Vec::new();
    for (name, value) in named {
        let key = name.get_ref().to_ascii_lowercase();
        let token = !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !token || OWN_HEADERS.contains(&key.as_str()) || headers.iter().any(|(known, _)| *known == key) {
            return Err(reader.error(name.span(), format!("header {:?} can't be added", name.get_ref())));
        }
        let text = reader.string(&format!("header {key}"), value)?;
        headers.push((key, Template::parse(text).map_err(|why| reader.error(value.span(), why))?));
    }
    Ok(headers)
}

fn on_park(text: &str) -> Result<OnPark, String> {
    let known = [OnPark::Hold, OnPark::Close, OnPark::Refuse].into_iter().find(|what| what.name() == text);
    known.ok_or_else(|| format!("on_park {text:?} is none of \"hold\", \"close\", \"refuse\""))
}

fn target(reader: &Reader<'_>, place: &str, span: &Range<usize>, table: &DeTable<'_>) -> Result<Target, ManifestError> {
    let (to, http) = (reader.parsed(table, "connect", connect)?, reader.parsed(table, "http", server)?);
    let ((tls, host, port), methods, paths) = match (to, http) {
        (Some(to), None) => {
            let only = ["methods", "paths", "headers"].into_iter().find_map(|key| table.get_key_value(key));
            return match only {
                Some((key, _)) => Err(reader.error(key.span(), format!("{} is for services that are given by http", key.get_ref()))),
                None => Ok(to.value),
            };
        }
        (None, Some(server)) => {
            let methods = reader.list(table, "methods", METHODS.len(), method)?;
            let paths = reader.list(table, "paths", MAX_PATHS, path)?;
            (server.value, methods, paths)
        }
        _ => return Err(reader.error(span.clone(), format!("{place} has either connect or http"))),
    };
    let (Some(methods), Some(paths)) = (methods, paths) else {
        let what = format!("{place} names the allowed methods and paths, such as methods = [\"GET\"], paths = [\"/v1/*\"]");
        return Err(reader.error(span.clone(), what));
    };
    Ok(Target::Http(Http { tls, host, port, methods: methods.value, paths: paths.value, headers: headers(reader, table)? }))
}

pub(super) fn read(reader: &Reader<'_>, place: &str, name: &str, span: &Range<usize>, table: &DeTable<'_>) -> Result<Aux, ManifestError> {
    reader.known(place, table, &["connect", "http", "port", "methods", "paths", "headers", "on_park", "connections", "bytes"])?;
    let wrong = |why: &str| reader.error(span.clone(), format!("auxiliary service {name:?}: {why}"));
    let parsed = AuxName::try_from(name.to_owned()).map_err(wrong)?;
    if name == "localhost" || name == "torpor" {
        return Err(wrong("the guest has this name already"));
    }
    let target = target(reader, place, span, table)?;
    let given = reader.whole(table, "port", &(1..=u32::from(u16::MAX)))?.and_then(|said| u16::try_from(said.value).ok());
    let port = given.or(match &target {
        Target::Tcp { port, .. } => Some(*port),
        Target::Unix { .. } => None,
        Target::Http(_) => Some(HTTP_PORT),
    });
    let bytes = |text: &str| {
        let range = "from \"1KiB\" to \"1024GiB\"";
        let bytes = units::bytes(text).ok_or_else(|| format!("bytes {text:?} is not a size; write it {range}"))?;
        if BYTES.contains(&bytes) { Ok(bytes) } else { Err(format!("bytes {text:?} is out of range; it is {range}")) }
    };
    Ok(Aux {
        name: parsed,
        target,
        port,
        on_park: reader.parsed(table, "on_park", on_park)?.map_or(OnPark::Refuse, |said| said.value),
        connections: reader.whole(table, "connections", &CONNECTIONS)?.map_or(CONNECTIONS_DEFAULT, |said| said.value),
        bytes: reader.parsed(table, "bytes", bytes)?.map_or(BYTES_DEFAULT, |said| said.value),
        line: reader.said((), span).line,
    })
}
