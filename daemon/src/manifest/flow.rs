//! Who may call whom: checked between the portions of a manifest when it is read, and for every call when it is made.
//!
//! A call needs the caller's word (`calls`) and the callee's (`callers`). Where the callee is trusted more than the caller, its word must be given in
//! full: it names the caller. So what is trusted is reached only by ways that it has opened itself.

use super::names::{PortionName, TaskName};
use super::rights::{Callee, Caller, Rights, Trust};
use super::{FILE, Manifest, ManifestError, Portion};

/// One end of a call: a portion of a task, and its rights.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its task.
    pub task: &'a TaskName,
    /// Its portion.
    pub portion: &'a PortionName,
    /// Its rights.
    pub rights: &'a Rights,
}

/// Who makes a call.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// A client of the API.
    Client,
    /// A portion.
    Portion(End<'a>),
}

/// Why a call may not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller's policy does not name the callee.
    #[error("the policy of {caller} does not let it call {callee}: add {entry:?} to its `calls` in {FILE}")]
    Calls {
        /// Who.
        caller: String,
        /// What.
        callee: String,
        /// What its `calls` would have to hold.
        entry: String,
    },
    /// The callee's policy does not name the caller.
    #[error("the policy of {callee} does not let {caller} call it: its `callers` in {FILE} would have to hold {entry:?}")]
    Callers {
        /// Who.
        caller: String,
        /// What.
        callee: String,
        /// What its `callers` would have to hold.
        entry: String,
    },
    /// Portions other than main are not called from outside.
    #[error("{callee} is called by portions of its own task only")]
    Portion {
        /// What.
        callee: String,
    },
}

impl std::fmt::Display for End<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.portion.is_main() {
            write!(f, "task \"{}\"", self.task)
        } else {
            write!(f, "portion \"{}\" of task \"{}\"", self.portion, self.task)
        }
    }
}

/// Whether a call may be made.
pub fn allowed(by: By<'_>, to: End<'_>) -> Result<(), Denied> {
    let (caller, trust, name) = match by {
        // A client speaks for the account: nobody in it is trusted more.
        By::Client => (Caller::Client, Trust::Trusted, "a client of the API".to_owned()),
        By::Portion(end) => {
            let own = end.task == to.task;
            let callee = if own && !to.portion.is_main() { Callee::Portion(to.portion.clone()) } else { Callee::Task(to.task.clone()) };
            let named = end.rights.may_call(&callee) || (own && end.rights.may_call(&Callee::Portion(to.portion.clone())));
            if !named {
                return Err(Denied::Calls { caller: end.to_string(), callee: to.to_string(), entry: callee.to_string() });
            }
            let caller = if own { Caller::Portion(end.portion.clone()) } else { Caller::Task(end.task.clone()) };
            (caller, end.rights.trust, end.to_string())
        }
    };
    if !to.portion.is_main() && !matches!(caller, Caller::Portion(_)) {
        return Err(Denied::Portion { callee: to.to_string() });
    }
    // A task that calls itself may be named either way.
    let also = matches!(caller, Caller::Portion(_)).then(|| Caller::Task(to.task.clone()));
    let lets_in = |caller: &Caller| to.rights.may_be_called_by(caller, trust);
    if lets_in(&caller) || also.as_ref().is_some_and(|caller| to.portion.is_main() && lets_in(caller)) {
        Ok(())
    } else {
        Err(Denied::Callers { caller: name, callee: to.to_string(), entry: caller.to_string() })
    }
}

/// A call that a manifest declares between its portions.
fn edge<'a>(manifest: &'a Manifest, from: &Portion, callee: &Callee) -> Option<Result<&'a Portion, String>> {
    let Callee::Portion(name) = callee else { return None };
    if *name == from.name {
        return Some(Err(format!("portion {:?} calls itself", name.as_str())));
    }
    let found = manifest.portions.iter().find(|portion| portion.name == *name);
    Some(found.ok_or_else(|| format!("no portion {:?}: it would be [portion.{name}]", name.as_str())))
}

/// Refuses a manifest whose portions name portions that are not there, or calls that would be denied.
pub(super) fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    let end = |portion: &'_ Portion| (portion.name.clone(), portion.rights.clone());
    for portion in &manifest.portions {
        let said = |line: u32, message: String| Err(ManifestError { line: line as usize, message });
        if let Some(calls) = &portion.rights.calls {
            for callee in &calls.value {
                let target = match edge(manifest, portion, callee) {
                    None => continue,
                    Some(Err(message)) => return said(calls.line, message),
                    Some(Ok(target)) => target,
                };
                let ((from, from_rights), (to, to_rights)) = (end(portion), end(target));
                let from = End { task: &manifest.name, portion: &from, rights: &from_rights };
                let to = End { task: &manifest.name, portion: &to, rights: &to_rights };
                if let Err(denied) = allowed(By::Portion(from), to) {
                    let higher = target.rights.trust > portion.rights.trust && target.rights.callers.is_none();
                    let why = if higher {
                        format!(
                            "; it is trusted more ({}) than its caller ({}), so its manifest must name the caller",
                            target.rights.trust.name(),
                            portion.rights.trust.name()
                        )
                    } else {
                        String::new()
                    };
                    return said(calls.line, format!("{denied}{why}"));
                }
            }
        }
        for caller in portion.rights.callers.iter().flat_map(|said| said.value.iter().map(|caller| (caller, said.line))) {
            match caller {
                (Caller::Portion(name), line) if !manifest.portions.iter().any(|portion| portion.name == *name) => {
                    return said(line, format!("callers names portion {:?}, which is not there", name.as_str()));
                }
                (Caller::Client | Caller::Task(_) | Caller::Any, line) if !portion.name.is_main() => {
                    let message = format!("callers of portion {:?} are portions: write \"portion:main\"", portion.name.as_str());
                    return said(line, message);
                }
                _ => {}
            }
        }
    }
    Ok(())
}
