//! From a service's address to a connection, and its life.

use super::broker::Say;
use super::pipe::{GuestStream, Pipe};
use super::why::Why;
use super::{Outside, http};
use crate::manifest::aux::{Aux, Target};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::KeepAlive;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpStream, UnixStream};

/// For a connection to be there.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For what a guest had sent when it ended.
const GRACE: Duration = Duration::from_secs(5);

/// Within [`CONNECT_TIMEOUT`].
pub(super) async fn timely<T>(to: &Target, connecting: impl Future<Output = io::Result<T>>) -> Result<T, Why> {
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|source| Why::Connect { to: to.to_string(), source }),
        Err(_) => Err(Why::Late { to: to.to_string(), after: CONNECT_TIMEOUT }),
    }
}

pub(crate) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.trim_start_matches('[').trim_end_matches(']'), port)).await?;
    stream.set_nodelay(true)?;
    // One that is held for days may lose its other side without a word.
    setsockopt(&stream, KeepAlive, &true)?;
    Ok(stream)
}

async fn relay(mut guest: GuestStream, mut service: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Why> {
    copy_bidirectional(&mut guest, &mut service).await.map(drop).map_err(|error| Why::Broken(error.to_string()))
}

async fn serve(outside: &Outside, aux: &Arc<Aux>, guest: GuestStream, say: Say) -> Result<(), Why> {
    match &aux.target {
        Target::Tcp { host, port } => relay(guest, timely(&aux.target, tcp(host, *port)).await?).await,
        Target::Unix { path } => relay(guest, timely(&aux.target, UnixStream::connect(path)).await?).await,
        Target::Http(server) => http::serve(outside, aux, server, guest, say).await,
    }
}

/// The whole life of a connection.
pub(super) async fn live(outside: Arc<Outside>, aux: Arc<Aux>, pipe: Arc<Pipe>, say: Say) {
    let late = async {
        pipe.finishing.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let how = tokio::select! {
        biased;
        () = pipe.cut.cancelled() => Ok(()),
        () = late => Ok(()),
        how = serve(&outside, &aux, GuestStream(Arc::clone(&pipe)), say) => how,
    };
    pipe.over(how);
}
