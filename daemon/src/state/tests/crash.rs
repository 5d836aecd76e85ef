//! A process that commits as fast as it can is killed at a moment that nobody chose: everything that it was told is durable is there,
//! and nothing is there by half.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "TORPOR_TEST_CRASH_FOLDER";

/// The process that is killed: this test alone, started by the test below. Says each thing only once it was told so.
#[tokio::test]
async fn writer_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = open(Path::new(&folder)).await;
    let ids = std::sync::Mutex::new(IdSource::after(store.last_id().await.unwrap().as_ref()));
    let work = (0..8).map(|n| {
        let (store, ids) = (store.clone(), &ids);
        async move {
            loop {
                let queued = fresh(&mut ids.lock().unwrap(), &version("t", 'a'));
                let key = key(&queued, queued.id.as_str());
                insert_keyed(&store, &queued, &vec![b'0' + n; 20_000 * usize::from(n)], key).await.unwrap();
                println!("queued {}", queued.id);
                let mut done = queued.clone();
                for what in [
                    Happening::Starting { attempt: 1 },
                    Happening::Running { micros: 1 },
                    Happening::Finished { state: State::Succeeded, log_bytes: 0, log_dropped_bytes: 0 },
                ] {
                    done.apply(Timestamp::now(), what).unwrap();
                }
                done.result = Some(serde_json::value::RawValue::from_string(format!("\"{}\"", queued.id)).unwrap().into());
                update(&store, &queued, &done).await.unwrap();
                println!("ended {}", queued.id);
            }
        }
    });
    futures_util::future::join_all(work).await;
}

fn run_and_kill(folder: &Path, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "state::tests::crash::writer_until_killed", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said: Vec<String> = lines.by_ref().map(Result::unwrap).skip_while(|line| !line.contains("queued ex_")).take(1).collect();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    said.extend(reader.join().unwrap());
    // The test runner's own words stand before the first one.
    said.iter().filter_map(|line| line.find("queued ex_").or(line.find("ended ex_")).map(|at| line[at..].to_owned())).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for round in 0..6 {
        said.extend(run_and_kill(folder.path(), Duration::from_millis(60 + 37 * round)));
        let store = open(folder.path()).await;
        let mut checked = 0;
        for line in &said {
            let Some((what, id)) = line.split_once(' ') else { panic!("{line}") };
            // Only the last line may be cut off, and then it is not an id.
            let Some(id) = ExecutionId::parse(id) else { continue };
            let execution = store.execution(&id).await.unwrap().unwrap_or_else(|| panic!("{id} is lost"));
            if what == "ended" {
                assert_eq!(execution.state, State::Succeeded);
                assert_eq!(execution.result.unwrap().get(), format!("\"{id}\""));
                assert_eq!(execution.timeline.len(), 4);
            }
            checked += 1;
        }
        assert!(checked > 0);
        let (unfinished, filter) = (store.unfinished().await.unwrap(), Filter { limit: 1_000_000, ..Filter::default() });
        let all: Vec<Execution> = store.ended(&filter).await.unwrap().into_iter().chain(unfinished).collect();
        assert_eq!(store.key_counts().await.unwrap()["default"], all.len() as u64, "a key and no execution, or the other way round");
        for execution in &all {
            let known = store.key("default", &Key::parse(execution.id.as_str().as_bytes()).unwrap(), Timestamp::now()).await.unwrap();
            assert_eq!(known.unwrap().execution, execution.id);
        }
        for execution in store.unfinished().await.unwrap() {
            assert_eq!((execution.state, execution.timeline.len()), (State::Queued, 1), "half of a change is there");
            let input = store.input(&execution.id).await.unwrap();
            assert!(input.iter().all(|byte| *byte == input[0]) && input.len() % 20_000 == 0);
        }
    }
}
