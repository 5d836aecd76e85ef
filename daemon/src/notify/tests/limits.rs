//! How long it is tried, who waits for whom, and rows that can't be read.

use super::super::outbox::after;
use super::super::send::NotTold;
use super::*;
use crate::state::machine::State;
use crate::state::writer::{Change, Import};
use std::sync::atomic::{AtomicI64, Ordering};

#[tokio::test]
async fn a_server_that_fails_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    for _ in 0..20 {
        ended(&daemon, "{}", notify("http://127.0.0.1:9/")).await;
    }
    let last = ended(&daemon, "{}", notify("http://127.0.0.2:9/")).await.id;
    let now = Timestamp::now();
    let first = outbox.take(now).await;
    assert_eq!(first.len(), 5, "four of one server, and the other");
    assert!(first.iter().any(|due| due.execution == last));
    assert!(outbox.take(now).await.is_empty(), "they are on their way");
    for due in first {
        outbox.deliver(due, || now).await;
    }
    let second = outbox.take(now).await;
    assert!(second.len() == 4 && second.iter().all(|due| due.delivery.attempts == 0), "those that wait longest come first");
}

#[tokio::test]
async fn what_grew_old_while_it_waited_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(ended(&daemon, "{}", notify("http://127.0.0.1:9/")).await.id);
    }
    let now = Timestamp::now();
    let under_way = outbox.take(now).await;
    // All that ended is older than a day, of a daemon that ran all the time; four are under way for as long.
    let later = Timestamp(now.0 + 25 * HOUR);
    let outbox = outbox.running(now, later);
    assert!(outbox.take(later).await.is_empty());
    let failed = known(&daemon, &ids[19]).await.notify.unwrap();
    assert_eq!((failed.state, failed.attempts, failed.settled_at), (Told::Failed, 0, Some(later)));
    assert_eq!(failed.last.as_deref(), Some("given up after 24 h"));
    assert_eq!(known(&daemon, &under_way[0].execution).await.notify.unwrap().state, Told::Pending);
    let counted = daemon.parts.metrics.render(&daemon.dispatcher.load(), &Default::default()).unwrap();
    assert!(counted.contains("torpor_webhooks_total{how=\"failed\"} 16"), "{counted}");
    for due in under_way {
        let id = due.execution.clone();
        outbox.deliver(due, || later).await;
        assert_eq!(known(&daemon, &id).await.notify.unwrap().state, Told::Failed, "that was its last attempt");
    }
}

#[tokio::test]
async fn a_daemon_that_was_away_gives_what_is_old_its_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[500, 200]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    let id = ended(&daemon, "{}", notify(&other.url("/"))).await.id;
    let later = Timestamp(Timestamp::now().0 + 100 * HOUR);
    let outbox = outbox.running(later, later);
    for (now, state) in [(later, Told::Pending), (Timestamp(later.0 + 30 * SECOND), Told::Delivered)] {
        round(&outbox, now).await;
        assert_eq!(known(&daemon, &id).await.notify.unwrap().state, state);
    }
}

#[tokio::test]
async fn the_wait_begins_when_the_call_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    let id = ended(&daemon, "{}", notify("http://127.0.0.1:9/")).await.id;
    let now = Timestamp::now();
    let due = outbox.take(now).await.remove(0);
    let asked = AtomicI64::new(0);
    outbox.deliver(due, || Timestamp(now.0 + 20 * SECOND * asked.fetch_add(1, Ordering::Relaxed))).await;
    assert!(known(&daemon, &id).await.notify.unwrap().next_at.unwrap().0 >= now.0 + 22 * SECOND);
}

/// It moved, and comes back while that is told: its own end is told then, and what became of the other call is of no matter.
#[tokio::test]
async fn what_comes_back_is_told_when_it_ends_here() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    let moved = ended(&daemon, "{}", notify("http://127.0.0.1:9/")).await;
    let under_way = outbox.take(Timestamp::now()).await.remove(0);
    let back = Execution {
        state: State::Queued,
        finished_at: None,
        notify: Some(Delivery::new(notify("http://127.0.0.1:9/")).unwrap()),
        ..moved.clone()
    };
    let import = Import {
        execution: Arc::new(back.clone()),
        version: version("t", 'a'),
        input: b"{}".to_vec(),
        events: Vec::new(),
        ended: Vec::new(),
        returns: Some(moved.id.clone()),
    };
    daemon.store.commit(Change::Import(Arc::new(import))).await.unwrap();
    assert_eq!(known(&daemon, &moved.id).await.notify, back.notify, "it waits for the end again");
    let mut end = Execution { state: State::Cancelled, finished_at: Some(Timestamp::now()), ..back.clone() };
    end.notify.as_mut().unwrap().ended(end.finished_at.unwrap());
    let end = Change::Update { execution: Arc::new(end), stored: State::Queued, timeline: back.timeline.len() };
    daemon.store.commit(end).await.unwrap();
    outbox.deliver(under_way, Timestamp::now).await;
    let told = known(&daemon, &moved.id).await.notify.unwrap();
    assert_eq!((told.id, told.state, told.attempts), (back.notify.unwrap().id, Told::Pending, 0));
}

#[tokio::test]
async fn a_row_that_can_not_be_read_is_given_up_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[200]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    let (bad, good) = (ended(&daemon, "{}", notify(&other.url("/"))).await.id, ended(&daemon, "{}", notify(&other.url("/"))).await.id);
    change(folder.path(), &format!("UPDATE deliveries SET url = 'nowhere' WHERE execution = '{bad}'")).await;
    assert_eq!(round(&outbox, Timestamp::now()).await, 1);
    assert_eq!(known(&daemon, &good).await.notify.unwrap().state, Told::Delivered);
    change(folder.path(), &format!("UPDATE deliveries SET url = '{}' WHERE execution = '{bad}'", other.url("/"))).await;
    let failed = known(&daemon, &bad).await.notify.unwrap();
    assert!(failed.state == Told::Failed && failed.last.unwrap().contains("can't be read"));
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[500, 200]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    let id = ended(&daemon, "{}", notify(&other.url("/"))).await.id;
    let ahead = Timestamp(Timestamp::now().0 + 1000 * HOUR);
    assert_eq!(round(&outbox, ahead).await, 1);
    assert_eq!(round(&outbox, Timestamp::now()).await, 1);
    assert_eq!(known(&daemon, &id).await.notify.unwrap().state, Told::Delivered);
}

#[tokio::test]
async fn a_row_that_can_not_be_read_does_not_keep_the_daemon_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, _outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    let id = submit(&daemon, r#"{"ms":60000}"#, notify("http://127.0.0.1:9/")).await.id.clone();
    drop((daemon, _outbox));
    change(folder.path(), "UPDATE deliveries SET url = 'nowhere'").await;
    let (daemon, _outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    assert_eq!(known(&daemon, &id).await.notify, None);
}

#[test]
fn it_is_tried_for_a_day_and_often_enough() {
    let begin = Timestamp(1_800_000_000 * SECOND);
    let fails = || Err(NotTold { why: "no".into(), gone: false });
    let make = || {
        let mut delivery = Delivery::new(notify("https://a.example/")).unwrap();
        delivery.ended(begin);
        delivery
    };
    // A clock that counts, and one that never does.
    for (day, least, most) in [(24 * HOUR, 24, 59), (i64::MAX, 60, 60)] {
        let (mut delivery, mut now) = (make(), begin);
        while delivery.state == Told::Pending {
            delivery = after(delivery, fails(), now.0 - begin.0 >= day, now);
            if let Some(next) = delivery.next_at {
                assert!(next.0 - now.0 <= HOUR);
                now = next;
            }
        }
        assert_eq!((delivery.state, delivery.next_at), (Told::Failed, None));
        assert!((least..=most).contains(&delivery.attempts), "{}", delivery.attempts);
    }
    let gone = after(make(), Err(NotTold { why: "410".into(), gone: true }), false, begin);
    assert_eq!((gone.state, gone.attempts), (Told::Failed, 1));
}
