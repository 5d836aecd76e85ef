//! What torpord says afterwards, against what clients were told and what they asked for.

use super::RETRIES;
use super::load::{Plan, Seen};
use serde_json::Value;
use std::collections::BTreeMap;
use torpor_tests::daemon::Daemon;

/// Executions without their results.
pub(super) fn list(daemon: &Daemon, filter: &str) -> Vec<Value> {
    daemon.get(&format!("/v1/executions?limit=1000{filter}")).expect(200)["executions"].as_array().expect("a list").clone()
}

/// The ids of all there are, ended ones too.
pub(super) fn ids(daemon: &Daemon) -> Vec<String> {
    let mut ids = Vec::new();
    for task in ["tree", "tree-auto", "twig"] {
        let some = list(daemon, &format!("&all=true&task={task}"));
        assert!(some.len() < 1000, "too many of {task} to look at all of them");
        ids.extend(some.iter().map(|execution| text(&execution["id"]).to_owned()));
    }
    ids
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// All that is known agrees with what clients were told, and with what they asked for.
pub(super) fn check(daemon: &Daemon, seen: &BTreeMap<String, Seen>, again: usize) {
    let all: BTreeMap<String, Value> = ids(daemon).into_iter().map(|id| (id.clone(), daemon.execution(&id))).collect();
    for (id, Seen { plan, end }) in seen {
        let end = end.as_ref().expect("all have ended");
        assert_eq!((&end["state"], &end["result"]), (&"succeeded".into(), &plan.result.into()), "{:#}: {end:#}", plan.input);
        assert_eq!(all.get(id), Some(end), "{id} ended twice");
    }
    let (mut attempts, mut parks) = (0, 0);
    for (id, execution) in &all {
        one(daemon, id, execution);
        attempts += execution["attempts"].as_u64().unwrap();
        parks += execution["parks"].as_u64().unwrap_or(0);
    }
    let roots = all.values().filter(|execution| !execution["parent"].is_string()).count();
    // All that were seen are there, see above.
    assert_eq!(roots, seen.len(), "one is there that was never submitted, or twice");
    let mut family = Family::default();
    for execution in all.values().filter(|execution| execution["parent"].is_string()) {
        assert!(all.contains_key(text(&execution["parent"])), "nobody started it: {execution:#}");
        family.children.entry(text(&execution["parent"])).or_default().push(execution);
    }
    for (id, Seen { plan, .. }) in seen {
        family.agrees(&all[id], plan);
    }
    let more = family.more.get();
    let below = all.len() - roots;
    eprintln!(
        "{roots} executions ({again} submitted again), {below} below them ({more} of them run anew); {attempts} attempts, {parks} parks"
    );
}

/// Its own record agrees with itself and with what its program said.
fn one(daemon: &Daemon, id: &str, execution: &Value) {
    let timeline = execution["timeline"].as_array().unwrap();
    let count = |event: &str| timeline.iter().filter(|entry| entry["event"] == event).count() as u64;
    assert_eq!((count("finished"), timeline.last().unwrap()["event"].as_str()), (1, Some("finished")));
    let tries = execution["attempts"].as_u64().unwrap();
    assert!(tries <= 1 + RETRIES && count("starting") == tries, "{execution:#}");
    assert!(count("resuming") <= count("parked"), "a machine was run twice: {execution:#}");
    let said = said(daemon, id);
    // A program is begun once an attempt, and gets to its end once; what it said last may be lost with torpord.
    assert!(said("begun") <= tries && said("done") <= said("begun").min(tries), "{execution:#}");
}

/// How often a program said something.
fn said(daemon: &Daemon, id: &str) -> impl Fn(&str) -> u64 + use<> {
    let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
    let text: String = logs["entries"].as_array().unwrap().iter().map(|entry| text(&entry["text"]).to_owned()).collect();
    move |what| text.lines().filter(|line| *line == what).count() as u64
}

/// Who started whom.
#[derive(Default)]
struct Family<'a> {
    children: BTreeMap<&'a str, Vec<&'a Value>>,
    /// Those that an attempt started beside those of the plan.
    more: std::cell::Cell<usize>,
}

impl Family<'_> {
    /// It started what its plan says: each once, unless `replay = "none"` has each attempt start its own.
    fn agrees(&self, execution: &Value, plan: &Plan) {
        let mut left = self.children.get(text(&execution["id"])).cloned().unwrap_or_default();
        for wanted in &plan.children {
            let same = |child: &&Value| child["state"] == "succeeded" && child["task"] == wanted.task && child["result"] == wanted.result;
            let at = left.iter().position(same);
            let at = at.unwrap_or_else(|| panic!("{} {} was not run for {execution:#}\nbut {left:#?}", wanted.task, wanted.input));
            self.agrees(left.swap_remove(at), wanted);
        }
        assert!(plan.task == "tree-auto" || left.is_empty(), "it started more than {}: {left:#?}", plan.input);
        for child in left {
            let same = |wanted: &&Plan| child["task"] == wanted.task && child["result"] == wanted.result;
            match plan.children.iter().find(same) {
                Some(wanted) => self.agrees(child, wanted),
                None => assert_eq!(child["state"], "cancelled", "not of {}: {child:#}", plan.input),
            }
            self.more.set(self.more.get() + 1);
        }
    }
}
