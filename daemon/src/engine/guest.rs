//! What a guest says while an execution runs, from bytes to meaning. Pure: no I/O, no clock.
//!
//! ```text
//!   Fresh --Started--> Started --Result | Failed--> Answered --Drained--> (over)
//!     |                                               ^
//!     +--------------------Failed---------------------+         Log, Aux: anywhere; Ask, Blocked: while Started
//! ```
//! A guest that says anything else broke the protocol. Invariant: what is buffered is at most one frame and what one event brought.

use super::types::{ErrorKind, ExecutionError};
use torpor_protocol::agent::{Failure, GuestMessage, MessageError, Stream};
use torpor_protocol::ask::{Ask, Blocked};
use torpor_protocol::aux::FromGuest;
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::Event;

/// How a guest broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Bytes that are not a message.
    #[error("the guest sent what is not a message: {0}")]
    Message(#[from] MessageError),
    /// A message out of its turn.
    #[error("the guest sent {0} out of turn")]
    Turn(&'static str),
}

impl From<Broken> for ExecutionError {
    fn from(broken: Broken) -> Self {
        Self::new(ErrorKind::GuestProtocol, broken.to_string())
    }
}

/// What a guest's message means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The input was taken.
    Started,
    /// Output.
    Log {
        /// Where it was written.
        stream: Stream,
        /// What was written.
        bytes: Vec<u8>,
    },
    /// A result, not looked at yet.
    Result {
        /// More output follows, then [`Self::Drained`].
        drain: bool,
        /// By the guest's word.
        json: Vec<u8>,
    },
    /// A failure; its `drain` says the same.
    Failed(Failure),
    /// No more output follows.
    Drained,
    /// The program asks for something.
    Ask {
        /// What.
        ask: Ask,
        /// Input of a call.
        payload: Vec<u8>,
        /// It came over the agent's connection.
        vsock: bool,
    },
    /// The agent stands at the door, because of these asks; and how many messages about connections it has heard.
    Blocked(Vec<u64>, u64),
    /// Of a connection to an auxiliary service.
    Aux(FromGuest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Started,
    Answered,
}

/// One execution's talk with its guest.
#[derive(Debug)]
pub(super) struct Conversation {
    phase: Phase,
    vsock: Decoder,
}

impl Conversation {
    /// Before anything was said.
    pub(super) fn new() -> Self {
        Self { phase: Phase::Fresh, vsock: Decoder::default() }
    }

    /// Of a machine that was parked, whose agent had sent these bytes of an unfinished message.
    pub(super) fn resumed(unread: &[u8]) -> Self {
        let mut vsock = Decoder::default();
        vsock.push(unread);
        Self { phase: Phase::Started, vsock }
    }

    /// What the agent's connection brought of a message that is not whole.
    pub(super) fn unread(&self) -> &[u8] {
        self.vsock.unread()
    }

    /// A frame from the door.
    pub(super) fn outbox(&mut self, frame: &[u8]) -> Result<Said, Broken> {
        let frame = Frame::decode_exact(frame).map_err(MessageError::from)?;
        self.step(GuestMessage::from_frame(frame)?, false)
    }

    /// Bytes from the agent's connection; [`Self::next_said`] tells what they mean.
    pub(super) fn vsock(&mut self, bytes: &[u8]) {
        self.vsock.push(bytes);
    }

    /// What the agent's connection brought and was not told yet.
    pub(super) fn next_said(&mut self) -> Result<Option<Said>, Broken> {
        match self.vsock.next_frame().map_err(MessageError::from)? {
            Some(frame) => self.step(GuestMessage::from_frame(frame)?, true).map(Some),
            None => Ok(None),
        }
    }

    fn step(&mut self, message: GuestMessage, vsock: bool) -> Result<Said, Broken> {
        let (said, phase) = match (self.phase, message) {
            (phase, GuestMessage::Log { stream, bytes }) => (Said::Log { stream, bytes }, phase),
            (Phase::Fresh, GuestMessage::Started) => (Said::Started, Phase::Started),
            (Phase::Started, GuestMessage::Result { drain, json }) => (Said::Result { drain, json }, Phase::Answered),
            (Phase::Fresh | Phase::Started, GuestMessage::Failed(failure)) => (Said::Failed(failure), Phase::Answered),
            (Phase::Answered, GuestMessage::Drained) => (Said::Drained, Phase::Answered),
            // The door holds one answer, that to the speaker who stands there.
            (Phase::Started, GuestMessage::Ask { ask, payload }) if ask.standing != vsock => {
                (Said::Ask { ask, payload, vsock }, self.phase)
            }
            (Phase::Started, GuestMessage::Blocked(Blocked { seqs, aux })) if !vsock => (Said::Blocked(seqs, aux), self.phase),
            // The agent does not know of all phases.
            (phase, GuestMessage::Aux(aux)) if vsock => (Said::Aux(aux), phase),
            (_, other) => return Err(Broken::Turn(message_name(&other))),
        };
        self.phase = phase;
        Ok(said)
    }
}

/// A message's name, for error messages.
pub(super) const fn message_name(message: &GuestMessage) -> &'static str {
    match message {
        GuestMessage::Hello(_) => "Hello",
        GuestMessage::Loaded => "Loaded",
        GuestMessage::LoadFailed(_) => "LoadFailed",
        GuestMessage::Started => "Started",
        GuestMessage::Log { .. } => "Log",
        GuestMessage::Result { .. } => "Result",
        GuestMessage::Failed(_) => "Failed",
        GuestMessage::Drained => "Drained",
        GuestMessage::Ask { .. } => "Ask",
        GuestMessage::Blocked(_) => "Blocked",
        GuestMessage::Aux(_) => "Aux",
    }
}

/// An event's name, for error messages.
pub(super) const fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Prepared => "Prepared",
        Event::Running { .. } => "Running",
        Event::AtDoor => "AtDoor",
        Event::Outbox { .. } => "Outbox",
        Event::VsockOpen => "VsockOpen",
        Event::Vsock { .. } => "Vsock",
        Event::VsockClosed => "VsockClosed",
        Event::Saved { .. } => "Saved",
        Event::Parked { .. } => "Parked",
        Event::NotParked { .. } => "NotParked",
        Event::Stopped { .. } => "Stopped",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use torpor_protocol::agent::FailureKind;

    fn bytes(message: &GuestMessage) -> Vec<u8> {
        message.to_frame().unwrap().encode().unwrap()
    }

    fn failure() -> Failure {
        Failure {
            kind: FailureKind::Exit,
            message: "no".into(),
            exception: None,
            traceback: None,
            exit_code: Some(3),
            signal: None,
            drain: false,
        }
    }

    fn log() -> GuestMessage {
        GuestMessage::Log { stream: Stream::Stdout, bytes: b"x".to_vec() }
    }

    #[test]
    fn a_run_by_door_and_vsock() {
        let mut talk = Conversation::new();
        assert_eq!(talk.outbox(&bytes(&GuestMessage::Started)).unwrap(), Said::Started);
        let stream: Vec<u8> = [bytes(&log()), bytes(&log())].concat();
        let (head, tail) = stream.split_at(12);
        talk.vsock(head);
        assert!(matches!(talk.next_said().unwrap(), Some(Said::Log { .. })));
        assert!(talk.next_said().unwrap().is_none());
        talk.vsock(tail);
        assert!(matches!(talk.next_said().unwrap(), Some(Said::Log { .. })));
        let result = GuestMessage::Result { drain: true, json: b"1".to_vec() };
        assert!(matches!(talk.outbox(&bytes(&result)).unwrap(), Said::Result { drain: true, .. }));
        talk.vsock(&[bytes(&log()), bytes(&GuestMessage::Drained)].concat());
        assert!(matches!(talk.next_said().unwrap(), Some(Said::Log { .. })));
        assert_eq!(talk.next_said().unwrap(), Some(Said::Drained));
    }

    #[test]
    fn a_program_may_fail_before_it_started() {
        let mut talk = Conversation::new();
        assert_eq!(talk.outbox(&bytes(&GuestMessage::Failed(failure()))).unwrap(), Said::Failed(failure()));
    }

    #[test]
    fn what_is_out_of_turn_is_refused() {
        let result = GuestMessage::Result { drain: false, json: b"1".to_vec() };
        let script: [(&[GuestMessage], GuestMessage); 6] = [
            (&[], result.clone()),
            (&[], GuestMessage::Loaded),
            (&[], GuestMessage::Drained),
            (&[GuestMessage::Started], GuestMessage::Started),
            (&[GuestMessage::Started, result.clone()], result.clone()),
            (&[GuestMessage::Started, result], GuestMessage::Failed(failure())),
        ];
        for (before, last) in script {
            let mut talk = Conversation::new();
            for message in before {
                talk.outbox(&bytes(message)).unwrap();
            }
            assert!(matches!(talk.outbox(&bytes(&last)), Err(Broken::Turn(_))), "{last:?} after {before:?}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut talk = Conversation::new();
        assert!(matches!(talk.outbox(&[1, 2, 3]), Err(Broken::Message(_))));
        talk.vsock(&[0xff; 64]);
        assert!(matches!(talk.next_said(), Err(Broken::Message(_))));
    }
}
