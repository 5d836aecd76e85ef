//! What the daemon says to a guest, and what a guest says back.
//!
//! A guest has two speakers. The **agent** (PID 1) talks over vsock from boot on, and at the door of a runtime template. The **language host** of runtime
//! `python` talks through the door from the moment its task's code is loaded; for runtime `exec` the agent does that as well.
//!
//! ```text
//! daemon                       guest
//!                     <-  Hello                 (vsock, once, at boot)
//!                     <-  (waits at the door)   runtime template is taken here
//! Load                ->                        (door)
//!                     <-  Loaded | LoadFailed   (vsock; then the program's host waits at the door)
//!                         (waits at the door)   task template is taken here
//! Start               ->                        (door)
//!                     <-  Started               (door)
//!                     <-  Log *                 (door or vsock)
//!                     <-> Ask, Answers *        (door or vsock, see [`crate::ask`])
//!                     <-  Result | Failed       (door, or vsock when the program's host is gone)
//!                     <-  Drained               (vsock, after a Result or Failed that said so)
//! ```

use crate::ask::{Answers, Ask, Blocked, MAX_ASKS, Taken, What};
use crate::frame::{Frame, FrameError};
use crate::limits::{MAX_FAILURE_TEXT, MAX_INPUT, MAX_LOG_CHUNK, MAX_RESULT};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Version of these messages; an agent of another is refused at [`GuestMessage::Hello`].
pub const VERSION: u32 = 3;
/// vsock port of the host (CID 2) that the agent connects to.
pub const VSOCK_PORT: u32 = 1024;

const LOAD: u8 = 1;
const START: u8 = 2;
const TAKEN: u8 = 3;
const ANSWERS: u8 = 4;
const HELLO: u8 = 64;
const LOADED: u8 = 65;
const LOAD_FAILED: u8 = 66;
const STARTED: u8 = 67;
const LOG: u8 = 68;
const RESULT: u8 = 69;
const FAILED: u8 = 70;
const DRAINED: u8 = 71;
const ASK: u8 = 72;
const BLOCKED: u8 = 73;

/// A program's language host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Python 3: `entry` is `FILE.py:FUNCTION`.
    Python,
    /// Any program: `entry` is a file in the task's folder.
    Exec,
}

impl Runtime {
    /// Its name in manifests, folders and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Exec => "exec",
        }
    }
}

/// Body of [`HostMessage::Load`]: the task's code is on the code disk, make it ready to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// What the manifest says, see [`Runtime`].
    pub entry: String,
    /// Name of the task, for `context` and the environment.
    pub task: String,
    /// Version of the task, lower-case hex.
    pub version: String,
    /// Portion of the task.
    pub portion: String,
    /// Services outside that the program may talk to, by names of this machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aux: Vec<AuxPlace>,
}

/// Where an auxiliary service is in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuxPlace {
    /// Its host name, and the name of its Unix socket: `/run/aux/NAME`.
    pub name: String,
    /// Its TCP port, at an address of the loopback interface that the name stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Header of [`HostMessage::Start`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Id of the execution.
    pub execution: String,
    /// Entropy for random number generators in user mode (32 bytes, lower-case hex). The kernel's gets its own through the door's kernel page.
    pub seed: String,
    /// Secrets that the program gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
}

/// A secret of an account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Text, at most [`crate::limits::MAX_SECRET`] bytes.
    pub value: Zeroizing<String>,
}

/// Never with its value.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which of a program's outputs a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error, and Python's `logging`.
    Stderr,
}

/// What kind of failure a guest reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The handler raised; `exception` and `traceback` are set.
    Exception,
    /// The program ended with a non-zero status; `exit_code` is set.
    Exit,
    /// The program was ended by a signal; `signal` is set.
    Signal,
    /// The guest's kernel ended the program because memory was short.
    OutOfMemory,
    /// What the program returned is not JSON.
    InvalidResult,
    /// The result is larger than allowed.
    ResultTooLarge,
    /// The code could not be loaded: entry missing, import failed.
    Load,
}

/// Why a program did not give a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
    /// Type of the exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// Where it was raised, as the language prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// Exit status of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// A [`GuestMessage::Drained`] follows, with log output before it.
    #[serde(default)]
    pub drain: bool,
}

/// Daemon to guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMessage {
    /// To the agent of a runtime template.
    Load(Load),
    /// To the program's host of a task template.
    Start {
        /// The header.
        start: Start,
        /// JSON text.
        input: Vec<u8>,
    },
    /// To the agent, over vsock: the daemon knows of an ask that came that way.
    Taken(Taken),
    /// To whoever asked.
    Answers {
        /// The header.
        answers: Answers,
        /// Payloads of the answers, one after the other.
        payload: Vec<u8>,
    },
}

/// Body of [`GuestMessage::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub protocol: u32,
    /// The runtime that this root file system is for.
    pub runtime: Runtime,
    /// The agent's package version.
    pub agent: String,
    /// The guest kernel's release.
    pub kernel: String,
}

/// Guest to daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMessage {
    /// First frame after boot.
    Hello(Hello),
    /// The code is loaded; the program's host is about to wait at the door.
    Loaded,
    /// The code can't be loaded.
    LoadFailed(Failure),
    /// The program's host took the input.
    Started,
    /// Output of the program, not cut at lines.
    Log {
        /// Where it was written.
        stream: Stream,
        /// At most [`MAX_LOG_CHUNK`] bytes.
        bytes: Vec<u8>,
    },
    /// The program gave a result.
    Result {
        /// A [`GuestMessage::Drained`] follows, with log output before it.
        drain: bool,
        /// JSON text by the guest's word; the daemon checks it.
        json: Vec<u8>,
    },
    /// The program failed.
    Failed(Failure),
    /// All output that the program wrote before its end has been sent.
    Drained,
    /// The program asks for something.
    Ask {
        /// The header.
        ask: Ask,
        /// Input (JSON text) of a call; empty for everything else.
        payload: Vec<u8>,
    },
    /// Nothing can run here but what waits for answers; the agent stands at the door.
    Blocked(Blocked),
}

/// Why a frame is not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A kind that the sender may not use, or that does not exist.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// The body does not parse.
    #[error("{what}: {source}")]
    Json {
        /// Which message.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The body is cut off, too long or holds what it must not.
    #[error("{0}")]
    Body(&'static str),
}

fn json<T: Serialize>(kind: u8, what: &'static str, value: &T) -> Result<Frame, MessageError> {
    let body = serde_json::to_vec(value).map_err(|source| MessageError::Json { what, source })?;
    Ok(Frame { kind, body })
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, MessageError> {
    serde_json::from_slice(body).map_err(|source| MessageError::Json { what, source })
}

fn empty(body: &[u8], message: GuestMessage) -> Result<GuestMessage, MessageError> {
    if body.is_empty() { Ok(message) } else { Err(MessageError::Body("a message without a body has one")) }
}

fn failure(what: &'static str, body: &[u8]) -> Result<Failure, MessageError> {
    let failure: Failure = parse(what, body)?;
    let traceback = failure.traceback.as_ref().map_or(0, String::len);
    if failure.message.len() > MAX_FAILURE_TEXT || traceback > MAX_FAILURE_TEXT {
        return Err(MessageError::Body("a failure's text is longer than allowed"));
    }
    Ok(failure)
}

/// `u32 header length, header (JSON), payload`.
fn headed<T: Serialize>(kind: u8, what: &'static str, header: &T, payload: &[u8]) -> Result<Frame, MessageError> {
    headed_in(Vec::with_capacity(256 + payload.len()), kind, what, header, payload)
}

/// The same in this memory: where it has room for all, there is no second copy of any part.
fn headed_in<T: Serialize>(mut body: Vec<u8>, kind: u8, what: &'static str, header: &T, payload: &[u8]) -> Result<Frame, MessageError> {
    body.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut body, header).map_err(|source| MessageError::Json { what, source })?;
    let len = u32::try_from(body.len() - 4).map_err(|_| MessageError::Body("a header is too long"))?;
    body[..4].copy_from_slice(&len.to_le_bytes());
    body.extend_from_slice(payload);
    Ok(Frame { kind, body })
}

fn split_head<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<(T, &'a [u8]), MessageError> {
    const CUT: MessageError = MessageError::Body("a message with a header is cut off");
    let (len, rest) = body.split_first_chunk::<4>().ok_or(CUT)?;
    let (head, payload) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(CUT)?;
    Ok((parse(what, head)?, payload))
}

impl HostMessage {
    /// As a frame. `Start` and `Answers`: `u32 header length, header (JSON), payload`.
    pub fn to_frame(&self) -> Result<Frame, MessageError> {
        match self {
            Self::Load(load) => json(LOAD, "Load", load),
            Self::Start { start, input } => {
                // A character of JSON text takes six bytes at most where it was one.
                let secrets: usize = start.secrets.iter().map(|secret| 64 + 6 * (secret.name.len() + secret.value.len())).sum();
                headed_in(Vec::with_capacity(256 + secrets + input.len()), START, "Start", start, input)
            }
            Self::Taken(taken) => json(TAKEN, "Taken", taken),
            Self::Answers { answers, payload } => headed(ANSWERS, "Answers", answers, payload),
        }
    }

    /// From a frame.
    pub fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        match frame.kind {
            LOAD => Ok(Self::Load(parse("Load", &frame.body)?)),
            START => {
                let (start, input) = split_head("Start", &frame.body)?;
                if input.len() > MAX_INPUT {
                    return Err(MessageError::Body("input is larger than allowed"));
                }
                Ok(Self::Start { start, input: input.to_vec() })
            }
            TAKEN => Ok(Self::Taken(parse("Taken", &frame.body)?)),
            ANSWERS => {
                let (answers, payload): (Answers, _) = split_head("Answers", &frame.body)?;
                let announced = answers.answers.iter().fold(0usize, |sum, answer| sum.saturating_add(answer.reply.payload()));
                if announced != payload.len() {
                    return Err(MessageError::Body("Answers has more or less payload than it says"));
                }
                Ok(Self::Answers { answers, payload: payload.to_vec() })
            }
            kind => Err(MessageError::Kind(kind)),
        }
    }
}

impl GuestMessage {
    /// As a frame. `Log`: `u8 stream (1 stdout, 2 stderr), bytes`. `Result`: `u8 drain (0 or 1), JSON`. `Ask`: `u32 header length, header (JSON),
    /// payload`.
    pub fn to_frame(&self) -> Result<Frame, MessageError> {
        let bare = |kind| Ok(Frame { kind, body: Vec::new() });
        let tagged = |kind, tag: u8, bytes: &[u8]| {
            let mut body = Vec::with_capacity(bytes.len() + 1);
            body.push(tag);
            body.extend_from_slice(bytes);
            Ok(Frame { kind, body })
        };
        match self {
            Self::Hello(hello) => json(HELLO, "Hello", hello),
            Self::Loaded => bare(LOADED),
            Self::LoadFailed(failure) => json(LOAD_FAILED, "LoadFailed", failure),
            Self::Started => bare(STARTED),
            Self::Log { stream: Stream::Stdout, bytes } => tagged(LOG, 1, bytes),
            Self::Log { stream: Stream::Stderr, bytes } => tagged(LOG, 2, bytes),
            Self::Result { drain, json } => tagged(RESULT, u8::from(*drain), json),
            Self::Failed(failure) => json(FAILED, "Failed", failure),
            Self::Drained => bare(DRAINED),
            Self::Ask { ask, payload } => headed(ASK, "Ask", ask, payload),
            Self::Blocked(blocked) => json(BLOCKED, "Blocked", blocked),
        }
    }

    /// From a frame of a hostile guest: sizes and shapes are checked here, once.
    pub fn from_frame(frame: Frame) -> Result<Self, MessageError> {
        let body = frame.body.as_slice();
        match frame.kind {
            HELLO => Ok(Self::Hello(parse("Hello", body)?)),
            LOADED => empty(body, Self::Loaded),
            LOAD_FAILED => Ok(Self::LoadFailed(failure("LoadFailed", body)?)),
            STARTED => empty(body, Self::Started),
            LOG => {
                let (tag, bytes) = body.split_first().ok_or(MessageError::Body("Log is cut off"))?;
                if bytes.len() > MAX_LOG_CHUNK {
                    return Err(MessageError::Body("a piece of log is larger than allowed"));
                }
                let stream = match tag {
                    1 => Stream::Stdout,
                    2 => Stream::Stderr,
                    _ => return Err(MessageError::Body("Log names no stream")),
                };
                Ok(Self::Log { stream, bytes: bytes.to_vec() })
            }
            RESULT => {
                let (tag, json) = body.split_first().ok_or(MessageError::Body("Result is cut off"))?;
                if json.len() > MAX_RESULT {
                    return Err(MessageError::Body("result is larger than allowed"));
                }
                match tag {
                    0 | 1 => Ok(Self::Result { drain: *tag == 1, json: json.to_vec() }),
                    _ => Err(MessageError::Body("Result has an unknown flag")),
                }
            }
            FAILED => Ok(Self::Failed(failure("Failed", body)?)),
            DRAINED => empty(body, Self::Drained),
            ASK => {
                let (ask, payload): (Ask, _) = split_head("Ask", body)?;
                if payload.len() > MAX_INPUT {
                    return Err(MessageError::Body("input is larger than allowed"));
                }
                if !payload.is_empty() && !matches!(ask.what, What::Spawn { .. } | What::Call { .. }) {
                    return Err(MessageError::Body("an ask that takes no payload has one"));
                }
                Ok(Self::Ask { ask, payload: payload.to_vec() })
            }
            BLOCKED => {
                let blocked: Blocked = parse("Blocked", body)?;
                if blocked.seqs.len() > MAX_ASKS {
                    return Err(MessageError::Body("Blocked names more asks than there may be"));
                }
                Ok(Self::Blocked(blocked))
            }
            kind => Err(MessageError::Kind(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ask::{Answer, Refusal, Reply, Waited};
    use proptest::prelude::*;

    #[test]
    fn a_secret_travels_and_is_not_shown() {
        let secrets = vec![Secret { name: "key".into(), value: Zeroizing::new("v\u{1}al\"ue".into()) }];
        let start = HostMessage::Start { start: Start { execution: "e".into(), seed: String::new(), secrets }, input: b"1".to_vec() };
        assert_eq!(HostMessage::from_frame(start.to_frame().unwrap()).unwrap(), start);
        assert!(!format!("{start:?}").contains("ue"), "{start:?}");
    }

    #[test]
    fn messages_survive_the_wire() {
        let failure = Failure {
            kind: FailureKind::Exception,
            message: "no".into(),
            exception: Some("ValueError".into()),
            traceback: Some("Traceback".into()),
            exit_code: None,
            signal: None,
            drain: true,
        };
        let hello = Hello { protocol: VERSION, runtime: Runtime::Exec, agent: "0.1.0".into(), kernel: "6.1".into() };
        for message in [
            GuestMessage::Hello(hello),
            GuestMessage::Loaded,
            GuestMessage::LoadFailed(failure.clone()),
            GuestMessage::Started,
            GuestMessage::Log { stream: Stream::Stderr, bytes: b"x\n".to_vec() },
            GuestMessage::Result { drain: false, json: b"{}".to_vec() },
            GuestMessage::Failed(failure),
            GuestMessage::Drained,
            GuestMessage::Ask {
                ask: Ask { seq: 1, standing: true, what: What::Call { task: "t".into(), timeout_ms: Some(5) } },
                payload: b"{}".to_vec(),
            },
            GuestMessage::Ask { ask: Ask { seq: 2, standing: false, what: What::Event {} }, payload: Vec::new() },
            GuestMessage::Blocked(Blocked { seqs: vec![1, 1 << 33] }),
        ] {
            assert_eq!(GuestMessage::from_frame(message.to_frame().unwrap()).unwrap(), message);
        }
        let start = Start { execution: "e1".into(), seed: "00".repeat(32), secrets: Vec::new() };
        let waited = Waited { execution: "e2".into(), state: "succeeded".into(), result: Some(2), error: None, more: false };
        let answers = Answers {
            resumed: true,
            seed: Some("00".repeat(32)),
            answers: vec![
                Answer { seq: 1, reply: Reply::Waited { executions: vec![waited], timed_out: false } },
                Answer { seq: 2, reply: Reply::Refused { kind: Refusal::Cycle, message: "no".into() } },
                Answer { seq: 3, reply: Reply::Signalled { len: 2 } },
                Answer { seq: 4, reply: Reply::Slept },
            ],
        };
        for message in [
            HostMessage::Load(Load {
                entry: "main.py:handler".into(),
                task: "t".into(),
                version: "ab".into(),
                portion: "main".into(),
                aux: vec![AuxPlace { name: "ledger".into(), port: Some(5432) }],
            }),
            HostMessage::Start { start, input: b"[1]".to_vec() },
            HostMessage::Taken(Taken { seq: 7 }),
            HostMessage::Answers { answers, payload: b"12{}".to_vec() },
        ] {
            assert_eq!(HostMessage::from_frame(message.to_frame().unwrap()).unwrap(), message);
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_refused_or_taken(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = GuestMessage::from_frame(Frame { kind, body: body.clone() });
            let _ = HostMessage::from_frame(Frame { kind, body });
        }
    }
}
