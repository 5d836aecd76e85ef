//! Connections to the agent's socket: bytes in, bytes out, never more of them than is fixed.
//!
//! ```text
//!  Reading --a whole line--> Waiting --answered--> Writing --all written--> Reading
//!     \--its end, or too much--> (gone, after what is left to write)
//! ```
//!
//! A client has one request at a time; what it sends meanwhile stays in the kernel. Only one client at a time may collect a line that is longer than
//! [`SMALL`], the others wait for their turn to be read.

use crate::request::MAX_LINE;
use nix::sys::epoll::EpollFlags;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// What any client may have sent of a line.
pub(crate) const SMALL: usize = 16 << 10;

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A line, without its end.
    Line(Vec<u8>),
    /// Nothing whole yet.
    Part,
    /// More than a line may be.
    TooLong,
    /// Nothing will come any more.
    End,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    /// How far `input` holds no end of a line.
    looked: usize,
    output: Vec<u8>,
    written: usize,
    ended: bool,
    /// Its request is with the host.
    pub(crate) waiting: bool,
    /// To be dropped once everything is written.
    pub(crate) last: bool,
    /// How often the machine had been parked when this client was last told.
    pub(crate) parks: u64,
}

impl Client {
    /// A new connection.
    pub(crate) fn new(stream: UnixStream, parks: u64) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, input, looked: 0, output, written: 0, ended: false, waiting: false, last: false, parks })
    }

    /// Bytes that it is kept for.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    /// It has collected more than anybody may.
    pub(crate) fn large(&self) -> bool {
        self.input.len() >= SMALL
    }

    /// Nothing more comes of it.
    pub(crate) fn done(&self) -> bool {
        self.unsent() == 0 && !self.waiting && (self.last || (self.ended && self.input.is_empty()))
    }

    /// What it is watched for; `turn`: no other client collects a long line.
    pub(crate) fn interest(&self, turn: bool) -> EpollFlags {
        if self.unsent() > 0 {
            EpollFlags::EPOLLOUT
        } else if self.waiting || self.ended || self.last || (self.large() && !turn) {
            EpollFlags::empty()
        } else {
            EpollFlags::EPOLLIN
        }
    }

    /// The next line: from what is there, then from the connection. A client that is watched for nothing is not read.
    pub(crate) fn read(&mut self, turn: bool) -> std::io::Result<Input> {
        loop {
            if let Some(line) = self.line() {
                return Ok(if line.len() > MAX_LINE { Input::TooLong } else { Input::Line(line) });
            }
            if self.input.len() > MAX_LINE {
                return Ok(Input::TooLong);
            }
            if self.ended {
                return Ok(Input::End);
            }
            let room = if self.large() {
                if !turn {
                    return Ok(Input::Part);
                }
                256 << 10
            } else {
                SMALL
            };
            let old = self.input.len();
            self.input.resize(old + room, 0);
            let read = self.stream.read(&mut self.input[old..]);
            self.input.truncate(old + read.as_ref().map_or(0, |len| (*len).min(room)));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Input::Part),
                Err(error) => return Err(error),
            }
        }
    }

    /// A whole line that is there already; the last one needs no end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let found = self.input[self.looked..].iter().position(|byte| *byte == b'\n').map(|index| self.looked + index);
        let (len, skip) = match found {
            Some(end) => (end, end + 1),
            None if self.ended && !self.input.is_empty() => (self.input.len(), self.input.len()),
            None => {
                self.looked = self.input.len();
                return None;
            }
        };
        self.looked = 0;
        let rest = self.input.split_off(skip);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.truncate(len);
        Some(line)
    }

    /// Puts a line into what it is sent, and sends what goes now.
    pub(crate) fn say(&mut self, mut line: Vec<u8>) -> std::io::Result<()> {
        line.push(b'\n');
        if self.unsent() == 0 {
            (self.output, self.written) = (line, 0);
        } else {
            self.output.append(&mut line);
        }
        self.write()
    }

    /// Sends what goes now.
    pub(crate) fn write(&mut self) -> std::io::Result<()> {
        while self.unsent() > 0 {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        (self.output, self.written) = (Vec::new(), 0);
        Ok(())
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
#[path = "clients/tests.rs"]
mod tests;
