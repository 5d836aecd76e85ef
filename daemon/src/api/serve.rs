//! Connections: HTTP/1.1 on a Unix socket and, where it is wished, on TCP with TLS; with caps on their number, in all and from each, and on how long a
//! request's head and the taking of an answer may take. Each request is told where it comes from: [`Peer`].
//!
//! Torpord itself is no client of its own: what comes from its process is a guest's connection to an auxiliary service that is this socket, and would be an
//! administrator's.
//!
//! The socket appears under its name only when it listens and has its permissions; a stale one is replaced by that, a living one is not.

use super::caller::Peer;
use super::places::{Comes, Patient, Place, Places};
use super::tls::Tls;
use crate::accounts::Accounts;
use crate::lock::stays;
use crate::manifest::AccountName;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long a request's head may take, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a request's head, and of what is read ahead.
const MAX_HEAD: usize = 64 << 10;
/// How long the first steps of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections get to finish their answers at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the daemon can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another daemon listens on {0}; stop it, or give this one its own --socket")]
    InUse(PathBuf),
    /// The path is something else.
    #[error("{0} exists and is no socket; remove it, or give another --socket")]
    NotASocket(PathBuf),
    /// The file system or the kernel says no.
    #[error("can't listen on {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the socket.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let io = |source| ListenError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) if is_answered(path) => return Err(ListenError::InUse(path.to_owned())),
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io)?;
    }
    let hidden = hidden(path, &std::process::id().to_string());
    remove_hidden(path);
    let _ = fs::remove_file(&hidden);
    let listener = net::UnixListener::bind(&hidden).map_err(io)?;
    let shown = fs::set_permissions(&hidden, Permissions::from_mode(0o660)).and_then(|()| fs::rename(&hidden, path));
    if let Err(error) = shown {
        let _ = fs::remove_file(&hidden);
        return Err(io(error));
    }
    adopt(listener).map_err(io)
}

/// Where the socket is until it listens.
fn hidden(path: &Path, id: &str) -> PathBuf {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{id}"));
    hidden.into()
}

/// What a daemon left that died before it listened.
fn remove_hidden(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (other, name) = (entry.path(), entry.file_name());
        let id = other.extension().and_then(|id| id.to_str()).unwrap_or_default().to_owned();
        let ours = hidden(path, &id).file_name() == Some(&name) && entry.file_type().is_ok_and(|kind| kind.is_socket());
        if ours && id.parse().is_ok_and(|id| id > 0 && !stays(id)) {
            let _ = fs::remove_file(other);
        }
    }
}

/// Whether the process that listens there lives. A child that it was just starting when it died may hold the socket a little longer.
fn is_answered(path: &Path) -> bool {
    let Ok(stream) = net::UnixStream::connect(path) else { return false };
    getsockopt(&stream, PeerCredentials).map_or(true, |peer| stays(peer.pid()))
}

/// Takes over a socket that listens already, such as one of systemd.
pub fn adopt(listener: net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Where connections come in.
#[derive(Debug)]
pub enum Door {
    /// From processes of this host, other than this one.
    Unix(UnixListener, Accounts),
    /// From this one as well.
    #[cfg(test)]
    Within(UnixListener),
    /// From anywhere.
    Tls(TcpListener, Arc<Tls>),
}

#[cfg(test)]
impl From<UnixListener> for Door {
    fn from(listener: UnixListener) -> Self {
        Self::Within(listener)
    }
}

/// A connection that nothing was said on.
enum Guest {
    Unix(UnixStream, u32),
    Tls(TcpStream, Arc<Tls>),
}

impl Door {
    /// None: one that is not let in.
    async fn accept(&self) -> io::Result<Option<(Guest, Comes)>> {
        match self {
            Self::Unix(listener, _) => local(listener.accept().await?.0, Some(std::process::id())),
            #[cfg(test)]
            Self::Within(listener) => local(listener.accept().await?.0, None),
            Self::Tls(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Ok(Some((Guest::Tls(stream, Arc::clone(tls)), Comes::address(address.ip()))))
            }
        }
    }
}

/// `but`: the process whose connections are refused.
fn local(stream: UnixStream, but: Option<u32>) -> io::Result<Option<(Guest, Comes)>> {
    let peer = stream.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    if pid.is_some() && pid == but {
        tracing::warn!("refused a connection of torpord to its own socket: an auxiliary service is this socket, and may not be");
        return Ok(None);
    }
    let uid = peer.uid();
    Ok(Some((Guest::Unix(stream, uid), Comes::user(uid))))
}

impl Guest {
    /// Whose user it is, where that is known before anything is said.
    fn account(&self, door: &Door) -> Option<AccountName> {
        match (self, door) {
            (Self::Unix(_, uid), Door::Unix(_, accounts)) => Some(accounts.by_uid(*uid)?.account),
            _ => None,
        }
    }

    async fn answer(
        self,
        from: Comes,
        place: Arc<Place>,
        router: Router,
        stop: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Unix(stream, uid) => Ok(talk(Patient::new(stream, from), (Peer::Local(uid), place), router, stop).await?),
            Self::Tls(stream, tls) => {
                stream.set_nodelay(true)?;
                let stream = tokio::select! {
                    stream = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)) => stream??,
                    () = stop.cancelled() => return Ok(()),
                };
                Ok(talk(Patient::new(stream, from), (Peer::Remote, place), router, stop).await?)
            }
        }
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (peer, place): (Peer, Arc<Place>),
    router: Router,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&place));
        router.clone().oneshot(request)
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).half_close(false).max_buf_size(MAX_HEAD);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Answers until told to stop, then lets answers on their way finish for a moment.
pub async fn serve(door: impl Into<Door>, router: Router, stop: CancellationToken) {
    let door = door.into();
    let places = Places::new();
    loop {
        let place = tokio::select! {
            place = places.free() => place,
            () = stop.cancelled() => break,
        };
        let Some(place) = place else { break };
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (guest, from) = match accepted {
            Ok(Some(came)) => came,
            Ok(None) => continue,
            Err(error) => {
                // Out of descriptors, most likely: they come back when connections end.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = places.admit(from, place);
        let Some(place) = place.filter(|place| guest.account(&door).is_none_or(|account| place.belongs(&account))) else {
            tracing::debug!(?from, "refused a connection: there are too many");
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = guest.answer(from, Arc::new(place), router, stop).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    let _ = tokio::time::timeout(FAREWELL, places.empty()).await;
}
