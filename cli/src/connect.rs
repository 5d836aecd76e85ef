//! The way to a daemon: its Unix socket, or TLS to another host, and what a caller says of itself.
//!
//! Invariants: nothing is sent to another host before its certificate was checked, and never without TLS; a token is no argument, which others on this host
//! could see, and is in no message.

use crate::error::CliError;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const CONNECT: Duration = Duration::from_secs(10);
/// The environment variable that has a token.
const TOKEN: &str = "TORPOR_TOKEN";
const ACCOUNT: HeaderName = HeaderName::from_static("x-torpor-account");
/// Largest file of a token.
const MAX_TOKEN: u64 = 4096;

/// What the command line says of where to go, and as whom.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) host: Option<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) account: Option<String>,
    pub(crate) socket: PathBuf,
}

/// Another host's daemon.
#[derive(Clone)]
pub(crate) struct Host {
    name: String,
    port: u16,
    server: ServerName<'static>,
    tls: TlsConnector,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Where a daemon is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Socket(PathBuf),
    Host(Box<Host>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Host(host) => write!(f, "https://{host:?}"),
        }
    }
}

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

fn usage(why: impl Into<String>) -> CliError {
    CliError::Usage(why.into())
}

impl Origin {
    fn token(&self) -> Result<Option<String>, CliError> {
        let text = match (std::env::var_os(TOKEN).filter(|token| !token.is_empty()), &self.token_file) {
            (Some(token), _) => token.into_string().map_err(|_| usage("TORPOR_TOKEN is no token"))?,
            (None, Some(path)) => read(path)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(text.trim().to_owned()))
    }

    /// Headers that say who calls, and in which account.
    pub(crate) fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, CliError> {
        let mut headers = Vec::new();
        if let Some(token) = self.token()? {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| usage("the token has characters that no token has"))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        } else if self.host.is_some() {
            return Err(usage(
                "another host's torpord needs a token: give it with TORPOR_TOKEN or --token-file; `torpor token create` there makes one",
            ));
        }
        if let Some(account) = &self.account {
            headers.push((ACCOUNT, HeaderValue::try_from(account).map_err(|_| usage(format!("{account:?} is no name of an account")))?));
        }
        Ok(headers)
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |source| CliError::File { what: "can't read the token in", path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_TOKEN {
        return Err(usage(format!("{} is larger than any token", path.display())));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, CliError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if usable > 0 { Ok(roots) } else { Err(usage("this host trusts no certificates; install ca-certificates, or give --ca")) };
    };
    let bytes = std::fs::read(path).map_err(|source| CliError::File { what: "can't read", path: path.to_owned(), source })?;
    let wrong = |why: String| usage(format!("{} has no certificates: {why}", path.display()));
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("it is not PEM".into())) } else { Ok(roots) }
}

impl Host {
    fn of(url: &str, ca: Option<&Path>) -> Result<Self, CliError> {
        let wrong = |why: &str| usage(format!("--host is https://HOST:PORT: {url:?} {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("does not begin with https://; a token never goes over a connection that others can read"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("has more than that"));
        }
        let name = authority.host().to_owned();
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(bare).map_err(|_| wrong("names no host"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = versions.map_err(|error| usage(error.to_string()))?.with_root_certificates(roots(ca)?).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { name, port: authority.port_u16().unwrap_or(443), server, tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn connect(&self) -> io::Result<impl Stream + use<>> {
        let stream = TcpStream::connect((self.name.trim_start_matches('[').trim_end_matches(']'), self.port)).await?;
        stream.set_nodelay(true)?;
        self.tls.connect(self.server.clone(), stream).await
    }
}

/// What to do about a certificate.
fn todo(error: &io::Error) -> &'static str {
    let untrusted = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    // What `openssl req -x509` makes where it is not told otherwise.
    if untrusted && format!("{error:?}").contains("CaUsedAsEndEntity") {
        "; the host's certificate is one of an authority: make one for a server, with basicConstraints CA:FALSE"
    } else if untrusted {
        "; --ca names the certificate that it is of"
    } else {
        ""
    }
}

impl Place {
    pub(crate) fn of(from: Origin) -> Result<Self, CliError> {
        match from.host {
            None => Ok(Self::Socket(from.socket)),
            Some(url) => Ok(Self::Host(Box::new(Host::of(&url, from.ca.as_deref())?))),
        }
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Socket(_) => "torpord".to_owned(),
            Self::Host(host) => format!("{host:?}"),
        }
    }

    pub(crate) async fn connect(&self) -> Result<Pin<Box<dyn Stream>>, CliError> {
        let late = || CliError::Lost { place: self.to_string(), why: "can't connect in time".into() };
        match self {
            Self::Socket(path) => {
                let stream = timeout(CONNECT, UnixStream::connect(path)).await.map_err(|_| late())?;
                Ok(Box::pin(stream.map_err(|source| CliError::unreachable(path, source))?))
            }
            Self::Host(host) => {
                let stream = timeout(CONNECT, host.connect()).await.map_err(|_| late())?;
                let why = |error: io::Error| CliError::NoHost { host: self.to_string(), why: format!("{error}{}", todo(&error)) };
                Ok(Box::pin(stream.map_err(why)?))
            }
        }
    }
}

#[cfg(test)]
mod tests;
