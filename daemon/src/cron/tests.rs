//! Times against the clocks of zones, plans against each other, and schedules on a real store with a scripted runner. The clock is an argument.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::plan::{GRACE, MOST_MISSED, Plan, plan};
use super::rule::Rule;
use super::timer::{ScheduleError, Schedules};
use super::*;
use crate::schedule::scripted::Daemon;
use crate::schedule::tests::crash;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::store::Filter;
use crate::state::tests::{change, version};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn rule(cron: &str, zone: &str) -> Rule {
    Rule::parse(cron, zone).unwrap()
}

/// The times after a moment.
fn times(rule: &Rule, from: &str, count: usize) -> Vec<String> {
    let times = std::iter::successors(rule.next(at(from)), |time| rule.next(*time));
    times.take(count).map(|time| time.to_string().replace(":00.000000Z", "Z")).collect()
}

#[test]
fn a_gap_is_jumped_and_a_time_that_is_there_twice_is_taken_once() {
    // 29 March 2026, 2:00 is 3:00 in Berlin; 25 October 2026, 3:00 is 2:00 again.
    let daily = rule("30 2 * * *", "Europe/Berlin");
    assert_eq!(times(&daily, "2026-03-27T12:00:00Z", 3), ["2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z"]);
    assert_eq!(times(&daily, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]);
    assert_eq!(daily.last(at("2026-10-25T02:00:00Z")), Some(at("2026-10-25T00:30:00Z")));
    // With a wildcard or a step, each time that there is.
    let often = rule("*/30 * * * *", "Europe/Berlin");
    assert_eq!(times(&often, "2026-03-29T00:30:00Z", 2), ["2026-03-29T01:00Z", "2026-03-29T01:30Z"]);
    assert_eq!(
        times(&often, "2026-10-25T00:15:00Z", 4),
        ["2026-10-25T00:30Z", "2026-10-25T01:00Z", "2026-10-25T01:30Z", "2026-10-25T02:00Z"]
    );
    // Several times of the day are taken as each of them alone, as are those of a range.
    let twice = rule("30 2,14 * * *", "Europe/Berlin");
    assert_eq!(times(&twice, "2026-03-28T14:00:00Z", 3), ["2026-03-29T01:00Z", "2026-03-29T12:30Z", "2026-03-30T00:30Z"]);
    assert_eq!(times(&twice, "2026-10-24T14:00:00Z", 3), ["2026-10-25T00:30Z", "2026-10-25T13:30Z", "2026-10-26T01:30Z"]);
    assert_eq!(twice.last(at("2026-10-25T01:45:00Z")), Some(at("2026-10-25T00:30:00Z")), "shown for the second time");
    let night = rule("0,30 1-3 * * *", "Europe/Berlin");
    let spring = ["2026-03-29T00:00Z", "2026-03-29T00:30Z", "2026-03-29T01:00Z", "2026-03-29T01:30Z", "2026-03-29T23:00Z"];
    assert_eq!(times(&night, "2026-03-28T12:00:00Z", 5), spring, "2:00 and 2:30 are not there, and 3:00 is their moment");
    assert_eq!(
        times(&night, "2026-10-24T22:00:00Z", 5).join(" ").replace("2026-10-", ""),
        "24T23:00Z 24T23:30Z 25T00:00Z 25T00:30Z 25T02:00Z"
    );
    // Half an hour, on an island.
    let island = rule("15 2 * * *", "Australia/Lord_Howe");
    assert_eq!(times(&island, "2026-10-03T00:00:00Z", 2), ["2026-10-03T15:30Z", "2026-10-04T15:15Z"]);
    // A day that was left out: 30 December 2011 in Apia.
    let apia = rule("0 12 * * *", "Pacific/Apia");
    assert_eq!(times(&apia, "2011-12-29T12:00:00Z", 3), ["2011-12-29T22:00Z", "2011-12-30T10:00Z", "2011-12-30T22:00Z"]);
}

#[test]
fn there_are_times_at_no_end_of_time() {
    let ends =
        [chrono::DateTime::<chrono::Utc>::MIN_UTC, chrono::DateTime::<chrono::Utc>::MAX_UTC].map(|end| Timestamp(end.timestamp_micros()));
    for zone in ["Pacific/Apia", "America/New_York"] {
        for moment in ends.into_iter().chain([i64::MIN, i64::MAX].map(Timestamp)) {
            for cron in ["30 2 * * *", "30 * * * *"] {
                assert!(rule(cron, zone).next(moment).is_none_or(|next| next > moment));
                assert!(rule(cron, zone).last(moment).is_none_or(|last| last <= moment));
            }
        }
    }
}

#[test]
fn a_day_of_the_month_or_one_of_the_week_makes_a_day() {
    let either = rule("0 0 12 * FRI", "UTC");
    assert_eq!(times(&either, "2026-11-07T00:00:00Z", 3), ["2026-11-12T00:00Z", "2026-11-13T00:00Z", "2026-11-20T00:00Z"]);
}

#[test]
fn what_is_no_rule_is_refused() {
    for (cron, zone) in [
        ("", "UTC"),
        ("* * * *", "UTC"),
        ("* * * * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("0 3 * * *", "Mars/Olympus"),
        ("0 3 * * *", ""),
        ("\u{661} * * * *", "UTC"),
        (&"0,".repeat(200), "UTC"),
        // There is no such day.
        ("0 0 30 2 *", "UTC"),
        ("* * 31 2,4,6,9,11 *", "Europe/Berlin"),
    ] {
        assert!(Rule::parse(cron, zone).is_err(), "{cron:?} {zone:?}");
    }
    assert_eq!(rule(" @daily ", "UTC").text(), "@daily");
    assert!(Rule::parse("0 0 30 2 *", "UTC").unwrap_err().contains("there is no time"));
    assert_eq!(
        rule("0 0 * 2 MON#5", "UTC").next(at("2072-03-01T00:00:00Z")).unwrap().to_string(),
        "2112-02-29T00:00:00.000000Z",
        "40 years"
    );
    assert_eq!(rule("0 0 29 2 *", "UTC").next(at("2026-01-01T00:00:00Z")), Some(at("2028-02-29T00:00:00Z")));
}

const RULES: [&str; 10] = [
    "30 2,14 * * *",
    "0-59 1-3 * * *",
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0 0 1 * *",
    "15,45 1-3 * * MON-FRI",
    "0 3 * * 0",
    "59 23 L * *",
    "0 */5 29 2 *",
];
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"];

proptest! {
    #[test]
    fn there_and_back_are_the_same_times(which in 0..RULES.len(), zone in 0..ZONES.len(), seconds in 1_700_000_000i64..2_000_000_000, micros in 0i64..1_000_000) {
        let rule = rule(RULES[which], ZONES[zone]);
        let moment = Timestamp(seconds * 1_000_000 + micros);
        let (next, last) = (rule.next(moment).unwrap(), rule.last(moment).unwrap());
        prop_assert!(last <= moment && moment < next);
        prop_assert_eq!(rule.last(next), Some(next));
        prop_assert_eq!(rule.before(next), Some(last), "nothing is between");
        prop_assert_eq!(rule.next(last), Some(next));
    }

    #[test]
    fn any_text_is_a_rule_or_not(cron in "[-*,/?0-9 LW#A-Z@a-z]{0,40}", zone in "(UTC|Europe/Berlin|[A-Za-z/]{0,20})") {
        if let Ok(rule) = Rule::parse(&cron, &zone) {
            let from = at("2026-03-29T00:59:59Z");
            prop_assert!(rule.next(from).is_none_or(|next| next > from));
            prop_assert!(rule.last(from).is_none_or(|last| last <= from));
        }
    }

    /// Whatever was missed, and however the clock goes: no time twice, and none that was decided.
    #[test]
    fn no_time_is_run_twice(steps in prop::collection::vec(-7_200i64..7_200, 1..60), missed in 0..3usize, which in 0..RULES.len()) {
        let (rule, missed) = (rule(RULES[which], "Europe/Berlin"), [Missed::Skip, Missed::Once, Missed::All][missed]);
        let mut now = at("2026-03-29T00:00:00Z");
        let (mut fired_to, mut ran) = (now, std::collections::BTreeSet::new());
        for step in steps {
            now = Timestamp(now.0 + step * 1_000_000);
            let Plan { run, decided, .. } = plan(&rule, fired_to, now, missed);
            prop_assert!(run.is_sorted() && run.len() <= MOST_MISSED);
            for time in run {
                prop_assert!(time > fired_to && time <= now && ran.insert(time));
            }
            if let Some(decided) = decided {
                prop_assert!(decided > fired_to && rule.next(decided).unwrap() > now);
                fired_to = decided;
            }
        }
    }
}

#[test]
fn missed_times_are_run_as_declared() {
    let hourly = rule("0 * * * *", "UTC");
    let from = at("2026-05-01T00:00:00Z");
    let on_time = Timestamp(from.0 + 5 * HOUR + GRACE - 1);
    let late = Timestamp(on_time.0 + 1);
    let fifth = Timestamp(from.0 + 5 * HOUR);
    let run = |now, missed| plan(&hourly, from, now, missed);
    for (missed, now, expected) in
        [(Missed::Skip, on_time, 1), (Missed::Skip, late, 0), (Missed::Once, on_time, 1), (Missed::Once, late, 1), (Missed::All, late, 5)]
    {
        let plan = run(now, missed);
        assert_eq!((plan.run.len(), plan.decided), (expected, Some(fifth)), "{missed:?}");
        assert!(plan.run.last().is_none_or(|last| *last == fifth));
        assert_eq!(plan.skipped.is_some(), missed != Missed::All, "{missed:?}");
    }
    let many = run(Timestamp(from.0 + 150 * HOUR), Missed::All);
    assert_eq!((many.run.len(), many.run[0]), (MOST_MISSED, Timestamp(from.0 + 51 * HOUR)));
    assert!(many.skipped.unwrap().contains("the newest 100"));
    assert_eq!(run(Timestamp(from.0 + HOUR - 1), Missed::All), Plan::default());
    assert_eq!(run(Timestamp(from.0 - 400 * DAY), Missed::All), Plan::default(), "the clock was set back");
}

fn schedule(name: &str, cron: &str, from: Timestamp) -> Schedule {
    Schedule {
        id: new_id().unwrap(),
        account: AccountName::default(),
        name: TaskName::try_from(name.to_owned()).unwrap(),
        task: "t".into(),
        rule: rule(cron, "UTC"),
        missed: Missed::Once,
        overlap: Overlap::Skip,
        need: None,
        notify: None,
        paused: false,
        created_at: from,
        fired_to: from,
        last: None,
        skipped: None,
    }
}

async fn start(folder: &Path) -> (Daemon, Schedules) {
    let daemon = Daemon::start(folder, 1024).await;
    daemon.put(&version("t", 'a')).await;
    let schedules = daemon.schedules().await;
    (daemon, schedules)
}

/// All executions of schedules, by time, once they have ended.
async fn executions(daemon: &Daemon) -> Vec<Execution> {
    for live in daemon.dispatcher.all_live() {
        live.ended().await;
    }
    while !daemon.dispatcher.all_live().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut all = daemon.store.ended(&Filter { limit: 10_000, ..Filter::default() }).await.unwrap();
    all.reverse();
    all
}

async fn fired(daemon: &Daemon) -> Vec<i64> {
    executions(daemon).await.into_iter().filter_map(|execution| Some(execution.schedule?.at.0)).collect()
}

#[tokio::test]
async fn a_schedule_makes_executions_at_its_times_and_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, schedules) = start(folder.path()).await;
    let from = at("2026-05-01T00:00:30Z");
    let hourly = schedule("hourly", "0 * * * *", from);
    schedules.add(hourly.clone(), b"{\"print\":\"x\"}"[..].into()).await.unwrap();
    assert!(matches!(schedules.add(schedule("hourly", "1 * * * *", from), b"0"[..].into()).await, Err(ScheduleError::Known(_))));
    let first = at("2026-05-01T01:00:00Z");
    assert_eq!(schedules.fire(Timestamp(first.0 - 1)).await, Some(first));
    assert!(fired(&daemon).await.is_empty());
    assert_eq!(schedules.fire(first).await, Some(Timestamp(first.0 + HOUR)));
    schedules.fire(first).await;
    let all = executions(&daemon).await;
    assert_eq!(all[0].schedule, Some(Fired { id: Arc::clone(&hourly.id), at: first }));
    assert_eq!((all.len(), all[0].state), (1, State::Succeeded));
    assert_eq!(schedules.get(&AccountName::default(), "hourly").await.unwrap().last.as_ref(), Some(&all[0].id));
    drop(schedules);

    let schedules = daemon.schedules().await;
    let known = schedules.get(&AccountName::default(), &hourly.id).await.unwrap();
    assert_eq!((known.fired_to, known.last.as_ref(), known.name.as_str()), (first, Some(&all[0].id), "hourly"));
    // The clock goes back a year, and comes again.
    for now in [first.0 - 365 * DAY, first.0, first.0 + HOUR, first.0 - DAY, first.0 + HOUR] {
        schedules.fire(Timestamp(now)).await;
    }
    assert_eq!(fired(&daemon).await, [first.0, first.0 + HOUR]);
    // Down for a day: one for all that was missed, and it says so.
    schedules.fire(Timestamp(first.0 + DAY + 30 * MINUTE)).await;
    assert_eq!(fired(&daemon).await[2..], [first.0 + DAY]);
    assert!(schedules.get(&AccountName::default(), "hourly").await.unwrap().skipped.unwrap().message.contains("stands for it"));
    assert!(
        schedules.get(&AccountName::try_from("other".to_owned()).unwrap(), "hourly").await.is_none()
            && !schedules.remove(&AccountName::try_from("other".to_owned()).unwrap(), "hourly").await.unwrap()
    );
    assert!(schedules.remove(&AccountName::default(), "hourly").await.unwrap());
    assert_eq!(schedules.fire(Timestamp(first.0 + 10 * DAY)).await, None);
    assert_eq!(fired(&daemon).await.len(), 3);
}

#[tokio::test]
async fn times_that_overlap_are_left_out_or_run() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, schedules) = start(folder.path()).await;
    let from = at("2026-05-01T00:00:00Z");
    schedules.add(schedule("one", "* * * * *", from), b"{\"ms\":60000}"[..].into()).await.unwrap();
    let several = Schedule { overlap: Overlap::Allow, missed: Missed::All, ..schedule("all", "* * * * *", from) };
    schedules.add(several, b"{\"ms\":1}"[..].into()).await.unwrap();
    for minute in [1, 2, 3, 6] {
        schedules.fire(Timestamp(from.0 + minute * MINUTE)).await;
    }
    let one = schedules.get(&AccountName::default(), "one").await.unwrap();
    let message = one.skipped.unwrap().message;
    assert!(message.contains("was missed") && message.contains("had not ended"), "4 and 5, and then 6: {message}");
    daemon.dispatcher.cancel(&one.last.unwrap()).await.unwrap().unwrap();
    schedules.fire(Timestamp(from.0 + 7 * MINUTE)).await;
    let one = schedules.get(&AccountName::default(), "one").await.unwrap();
    daemon.dispatcher.cancel(&one.last.unwrap()).await.unwrap().unwrap();
    let all = executions(&daemon).await;
    let of = |id: &Arc<str>| {
        all.iter()
            .filter_map(|execution| execution.schedule.as_ref())
            .filter(|fired| fired.id == *id)
            .map(|fired| (fired.at.0 - from.0) / MINUTE)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&one.id), [1, 7]);
    assert_eq!(of(&schedules.get(&AccountName::default(), "all").await.unwrap().id), [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn what_can_not_be_run_is_said_and_the_next_time_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, schedules) = start(folder.path()).await;
    let from = at("2026-05-01T00:00:00Z");
    schedules.add(Schedule { task: "u".into(), ..schedule("u", "* * * * *", from) }, b"0"[..].into()).await.unwrap();
    schedules.fire(Timestamp(from.0 + MINUTE)).await;
    assert!(schedules.get(&AccountName::default(), "u").await.unwrap().skipped.unwrap().message.contains("no task named \"u\""));
    daemon.put(&version("u", 'b')).await;
    schedules.fire(Timestamp(from.0 + 2 * MINUTE)).await;
    assert_eq!(fired(&daemon).await, [from.0 + 2 * MINUTE]);
    // A daemon that stops decides nothing.
    daemon.dispatcher.drain(Duration::ZERO).await;
    schedules.fire(Timestamp(from.0 + 3 * MINUTE)).await;
    assert_eq!(schedules.get(&AccountName::default(), "u").await.unwrap().fired_to.0, from.0 + 2 * MINUTE);
}

#[tokio::test]
async fn a_pause_misses_nothing_and_a_resume_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, schedules) = start(folder.path()).await;
    let now = Timestamp::now();
    // Its clock was far ahead once.
    let ahead = Timestamp(now.0 + 400 * DAY);
    schedules.add(schedule("a", "* * * * *", Timestamp(ahead.0 - MINUTE)), b"{}"[..].into()).await.unwrap();
    schedules.fire(ahead).await;
    let ran = fired(&daemon).await;
    assert!(ran.len() == 1 && schedules.get(&AccountName::default(), "a").await.unwrap().next().unwrap() > ahead);
    assert!(schedules.pause(&AccountName::default(), "a", true).await.unwrap().unwrap().next().is_none());
    schedules.fire(Timestamp(ahead.0 + DAY)).await;
    let resumed = schedules.pause(&AccountName::default(), "a", false).await.unwrap().unwrap();
    assert!(resumed.fired_to.0 < now.0 + HOUR && resumed.next().unwrap().0 <= now.0 + HOUR);
    // Up to the time that it has run, and over it.
    let last = Timestamp(ran[0]);
    schedules.fire(last).await;
    assert_eq!(fired(&daemon).await, ran, "the database knows that this was run");
    schedules.fire(Timestamp(last.0 + MINUTE)).await;
    assert_eq!(fired(&daemon).await, [last.0, last.0 + MINUTE]);
    assert!(schedules.pause(&AccountName::default(), "nobody", true).await.unwrap().is_none());
}

#[tokio::test]
async fn a_result_is_needed_after_the_time_that_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let (_daemon, schedules) = start(folder.path()).await;
    let from = Timestamp(Timestamp::now().0 / MINUTE * MINUTE);
    let need = |on_late| Some(Need { by_s: 90, on_late });
    for (name, on_late) in [("run", OnLate::Run), ("refuse", OnLate::Refuse)] {
        schedules.add(Schedule { need: need(on_late), ..schedule(name, "* * * * *", from) }, b"{}"[..].into()).await.unwrap();
    }
    drop((_daemon, schedules));
    let (daemon, schedules) = start(folder.path()).await;
    assert_eq!(schedules.get(&AccountName::default(), "refuse").await.unwrap().need, need(OnLate::Refuse));
    let time = Timestamp(from.0 + MINUTE);
    schedules.fire(time).await;
    let all = executions(&daemon).await;
    assert_eq!(all.iter().map(|execution| execution.need_by).collect::<Vec<_>>(), [Some(time.later(90_000)); 2]);
    // One that was due an hour ago is late.
    let past = Timestamp(from.0 - 60 * MINUTE);
    for (name, on_late) in [("run-late", OnLate::Run), ("refuse-late", OnLate::Refuse)] {
        let late = Schedule { need: need(on_late), ..schedule(name, "* * * * *", Timestamp(past.0 - MINUTE)) };
        schedules.add(late, b"{}"[..].into()).await.unwrap();
    }
    schedules.fire(past).await;
    assert_eq!(executions(&daemon).await.len(), 3);
    let skipped = schedules.get(&AccountName::default(), "refuse-late").await.unwrap().skipped.unwrap();
    assert!(skipped.message.contains("was not run"), "{skipped:?}");
}

/// As a library that knows fewer zones would find it.
#[tokio::test]
async fn a_schedule_that_can_not_be_read_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, schedules) = start(folder.path()).await;
    let from = at("2026-05-01T00:00:00Z");
    for name in ["gone", "good"] {
        schedules.add(schedule(name, "* * * * *", from), b"{}"[..].into()).await.unwrap();
    }
    change(folder.path(), "UPDATE schedules SET timezone = 'Mars/Olympus' WHERE name = 'gone'").await;
    let schedules = daemon.schedules().await;
    schedules.fire(Timestamp(from.0 + MINUTE)).await;
    assert_eq!(fired(&daemon).await, [from.0 + MINUTE]);
    let add = || schedules.add(schedule("gone", "* * * * *", from), b"{}"[..].into());
    assert!(matches!(add().await, Err(ScheduleError::Known(_))));
    assert!(schedules.remove(&AccountName::default(), "gone").await.unwrap());
    assert!(!schedules.remove(&AccountName::default(), "gone").await.unwrap());
    add().await.unwrap();
}

/// The process that dies.
#[tokio::test]
async fn until_it_dies() {
    let Some(folder) = crash::folder() else { return };
    let (_daemon, schedules) = start(&folder).await;
    let from = at("2026-05-01T00:00:00Z");
    schedules.add(schedule("a", "* * * * *", from), b"{}"[..].into()).await.unwrap();
    schedules.fire(Timestamp(from.0 + MINUTE)).await;
}

#[tokio::test]
async fn a_crash_at_each_step_makes_one_execution() {
    for step in ["cron.due", "cron.committed"] {
        let folder = tempfile::tempdir().unwrap();
        crash::dies("cron::tests::until_it_dies", folder.path(), step);
        // It may run a second time, as `interrupted` after its commit: `retries` of its task says no.
        let (daemon, schedules) = start(folder.path()).await;
        let time = at("2026-05-01T00:01:00Z");
        schedules.fire(Timestamp(time.0 + 1)).await;
        assert_eq!(fired(&daemon).await, [time.0], "{step}");
        assert_eq!(schedules.get(&AccountName::default(), "a").await.unwrap().fired_to, time, "{step}");
    }
}
