//! A file as the body of a request, read piece by piece, and how far a transfer is, on a terminal.

use crate::output::size;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const PIECE: usize = 256 << 10;
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// How far a transfer is: on standard error where that is a terminal, and gone at its end.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    whole: Option<u64>,
    done: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// `whole`: all bytes, where that is known.
    pub(crate) fn new(what: &'static str, whole: Option<u64>) -> Self {
        Self { what, whole, done: 0, shown: None, terminal: io::stderr().is_terminal() }
    }

    /// So many more bytes.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= SHOW_EVERY) {
            self.shown = Some(Instant::now());
            let _ = io::stderr().write_all(self.text().as_bytes());
        }
    }

    /// Bytes until now.
    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    fn text(&self) -> String {
        let of = self.whole.map(|whole| format!(" of {}", size(whole))).unwrap_or_default();
        format!("\r\x1b[K{} {}{of}", self.what, size(self.done))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Upload {
    file: File,
    left: u64,
    progress: Progress,
}

impl Upload {
    /// All of a file.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self { file, left: found.len(), progress: Progress::new("sent", Some(found.len())) })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(this.left).unwrap_or(PIECE))];
        Poll::Ready(Some(match this.file.read(&mut piece) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read")),
            Ok(read) => {
                piece.truncate(read);
                this.left = this.left.saturating_sub(u64::try_from(read).unwrap_or(0));
                this.progress.add(read);
                Ok(Frame::data(Bytes::from(piece)))
            }
            Err(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn all_of_a_file_is_sent() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..PIECE * 2 + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
        file.write_all(&bytes).unwrap();
        let upload = Upload::new(File::open(file.path()).unwrap()).unwrap();
        assert_eq!(Body::size_hint(&upload).exact(), Some(u64::try_from(bytes.len()).unwrap()));
        assert!(upload.collect().await.unwrap().to_bytes() == bytes);
        assert!(Upload::new(File::open("/").unwrap()).is_err());
        assert_eq!(Progress { done: 1 << 20, ..Progress::new("sent", Some(3 << 20)) }.text(), "\r\x1b[Ksent 1.0 MiB of 3.0 MiB");
    }
}
