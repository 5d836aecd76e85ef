//! When the making of a task's template stops, and what becomes of one that can't be read: monitors here are processes that never answer.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::engine::monitor::Launcher;
use std::path::PathBuf;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::Runtime;

struct Fixture {
    dir: tempfile::TempDir,
    templates: Arc<Templates>,
    stats: Arc<Stats>,
    task: TaskVersion,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let code = dir.path().join("code");
        std::fs::write(&code, "code").unwrap();
        let (stats, wake, host) = (Arc::new(Stats::default()), Arc::new(Notify::new()), Host::scripted().unwrap());
        let launcher = Launcher::shell("exec sleep 100", stats.clone(), CancellationToken::new(), wake.clone());
        let launcher = Arc::new(launcher.unwrap());
        let pool = Pool::new(launcher, host.kvm.clone(), stats.clone(), 0, wake);
        let templates = Arc::new(Templates::open(&dir.path().join("templates"), host, pool, stats.clone(), &[]).unwrap());
        let (task, version, entry) = ("t".into(), "0".repeat(64), "main:f".into());
        let task = TaskVersion {
            account: "default".into(),
            task,
            version,
            portion: "main".into(),
            aux: Vec::new(),
            runtime: Runtime::Python,
            entry,
            memory_mib: 128,
            cpu_permille: None,
            code,
        };
        let fixture = Self { dir, templates, stats, task };
        fixture.has_runtime();
        fixture
    }

    fn has_runtime(&self) {
        let spec = Spec::Task(self.task.clone()).below();
        let id = self.templates.host.id(&spec);
        let null = || File::open("/dev/null").unwrap();
        let image = self.templates.host.image(Runtime::Python).clone();
        let below =
            Template { id: id.clone(), state: null(), memory: null(), image, code: None, ground: Ground::nowhere(), memory_bytes: 0 };
        let mut table = self.templates.table();
        let (attempt, _end) = table.begin(&id, spec);
        table.settle(&id, &attempt, &Ok((Arc::new(below), true)));
    }

    /// One who waits for the task's template.
    fn asks(&self) -> tokio::task::JoinHandle<Got> {
        let (templates, spec) = (self.templates.clone(), Spec::Task(self.task.clone()));
        tokio::spawn(async move { templates.get(&spec).await })
    }

    /// Puts the task's template on disk; its folder, and what a machine parked on it has of it.
    fn on_disk(&self) -> (PathBuf, Base) {
        let (store, spec) = (&self.templates.store, Spec::Task(self.task.clone()));
        let id = self.templates.host.id(&spec);
        let (_, code) = store::open_code(&self.task.code).unwrap();
        let meta = Meta::of(&spec, id.clone(), "base".into(), Some(code));
        let files = store.commit(store::tests::written_for(store, &id), &meta).unwrap();
        (self.dir.path().join("templates").join(&id), Base { template: id, content: store::content(&files).unwrap() })
    }

    async fn monitors(&self, wanted: usize) {
        let since = Instant::now();
        while self.stats.snapshot().monitors != wanted {
            assert!(since.elapsed() < Duration::from_secs(20), "{:?}", self.stats.snapshot());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn left_nothing(&self) {
        self.monitors(0).await;
        assert_eq!(self.templates.state(&self.task), TemplateState::None);
        let since = Instant::now();
        while std::fs::read_dir(self.dir.path().join("templates")).unwrap().count() > 0 {
            assert!(since.elapsed() < Duration::from_secs(20), "a draft is left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_load_stops_when_the_last_who_waits_for_it_is_gone() {
    let f = Fixture::new();
    let (first, second) = (f.asks(), f.asks());
    f.monitors(1).await;
    first.abort();
    assert!(first.await.is_err());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((f.stats.snapshot().monitors, f.templates.state(&f.task)), (1, TemplateState::Preparing), "the second still waits");
    second.abort();
    f.left_nothing().await;
    // And it can be asked for again.
    let third = f.asks();
    f.monitors(1).await;
    third.abort();
    f.left_nothing().await;
}

#[tokio::test]
async fn a_load_stops_when_its_task_is_removed() {
    let f = Fixture::new();
    let waits = f.asks();
    f.monitors(1).await;
    f.templates.forget(&f.task);
    let error = waits.await.unwrap().unwrap_err();
    assert!(error.message.contains("removed"), "{error}");
    f.left_nothing().await;
}

#[tokio::test]
async fn a_fault_while_it_is_made_is_told_to_all_who_wait() {
    let f = Fixture::new();
    let spec = Spec::Task(f.task.clone());
    let id = f.templates.host.id(&spec);
    let (attempt, mut end) = f.templates.table().begin(&id, spec);
    f.templates.attempt(&id, &attempt, async { panic!("as scripted") }).await;
    let got = end.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(got.unwrap_err().kind, ErrorKind::Host);
    assert_eq!(f.templates.state(&f.task), TemplateState::Failed);
    // Who asks now does not wait for that.
    let next = f.asks();
    f.monitors(1).await;
    next.abort();
    f.left_nothing().await;
}

/// What a file can't be opened for, and is whole all the same: to root, permissions are none.
fn unreadable(file: &Path) -> PathBuf {
    let aside = file.with_extension("aside");
    std::fs::rename(file, &aside).unwrap();
    std::os::unix::fs::symlink(file, file).unwrap();
    aside
}

#[tokio::test]
async fn one_that_can_not_be_read_now_stays() {
    let f = Fixture::new();
    let (folder, base) = f.on_disk();
    let state = folder.join("state");
    let aside = unreadable(&state);
    let error = f.asks().await.unwrap().unwrap_err();
    assert!(error.kind == ErrorKind::Host && error.message.contains("opening"), "{error}");
    let none = f.templates.parked_on(&base, &f.task).await.unwrap_err();
    assert!(none.passing, "{none:?}");
    std::fs::rename(&aside, &state).unwrap();
    let (template, made) = f.asks().await.unwrap().unwrap();
    assert!(!made && template.ground.base == base);
    assert_eq!(f.templates.parked_on(&base, &f.task).await.unwrap().ground.base, base);
}

#[tokio::test]
async fn one_that_is_damaged_is_made_anew_and_what_was_parked_on_it_fails() {
    let f = Fixture::new();
    let (folder, base) = f.on_disk();
    std::fs::remove_file(folder.join("memory")).unwrap();
    let none = f.templates.parked_on(&base, &f.task).await.unwrap_err();
    assert!(!none.passing && none.error.message.contains("damaged"), "{none:?}");
    let waits = f.asks();
    f.monitors(1).await;
    assert!(!folder.exists());
    waits.abort();
    f.left_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn code_that_hangs_gives_up_its_place() {
    let places = Semaphore::new(1);
    let hanging = patiently(places.acquire().await, std::future::pending::<()>());
    let since = tokio::time::Instant::now();
    tokio::select! {
        () = hanging => {}
        place = places.acquire() => assert!(place.is_ok() && since.elapsed() <= PATIENCE + Duration::from_millis(1)),
    }
}

#[tokio::test]
async fn accounts_share_no_template_of_a_task_and_old_ones_are_the_default_ones() {
    let f = Fixture::new();
    let host = &f.templates.host;
    let of = |account: &str, portion: &str| {
        host.id(&Spec::Task(TaskVersion { account: account.into(), portion: portion.into(), ..f.task.clone() }))
    };
    let ids =
        [of("default", "main"), of("us", "main"), of("them", "main"), of("default", "account"), of("us", "account"), of("account", "us")];
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
    // As it was before there were accounts.
    let below = host.id(&Spec::Task(f.task.clone()).below());
    let parts = [b"task", below.as_bytes(), f.task.task.as_bytes(), f.task.version.as_bytes(), f.task.entry.as_bytes()];
    assert_eq!(ids[0], super::super::fingerprint::combine(&parts).to_hex().to_string());
}
