//! What a submission may bring beside its input.

use crate::cron::Fired;
use crate::idempotency::NewKey;
use crate::notify::Notify;
use crate::state::time::Timestamp;
use crate::state::waiting::CallKey;
use torpor_protocol::ask::OnLate;

/// Nothing of it, by default.
#[derive(Debug, Default)]
pub struct Extras {
    /// What the request is known by when it comes again; stored with the execution.
    pub key: Option<NewKey>,
    /// When its result is needed; it is wanted at once where there is nothing.
    pub need_by: Option<Timestamp>,
    /// What to do where that is certain to be missed.
    pub on_late: OnLate,
    /// The calls of its parent up to it.
    pub call_key: Option<CallKey>,
    /// The schedule that makes it; that this time is run moves the schedule on, in the same commit.
    pub fired: Option<Fired>,
    /// Where its end is told: what the host's policy allows.
    pub notify: Option<Notify>,
}
