//! Firecracker: a machine is booted, saved once, and restored, each time in a new process.
//!
//! ```text
//!  boot --> Hello --> snapshot          restore --> running (the API's answer) --> Hello, on a new connection: it resets vsock at each snapshot
//! ```
//!
//! A process runs in a folder of its own, where its sockets are under the names that the snapshot holds: its API, and the host's end of vsock, which
//! it connects to when the guest connects. Invariant: no process outlives its [`Machine`], no wait its deadline.

use super::Setup;
use crate::Failed;
use crate::http::Http;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use torpor_protocol::agent::{GuestMessage, VSOCK_PORT};
use torpor_protocol::frame::Decoder;

/// Longest time from a process's start to the agent's first frame.
const DEADLINE: Duration = Duration::from_secs(120);
/// How often it is looked whether a process that is waited for is still there.
const GLANCE: Duration = Duration::from_millis(500);
/// How often a new process's API is tried.
const RETRY: Duration = Duration::from_micros(100);

/// A process that listens to its API.
struct Process {
    child: Child,
    started: Instant,
    /// Where the guest's connections arrive.
    guest: UnixListener,
    dir: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listener whose `accept` gives up after [`GLANCE`].
fn listen(path: &Path) -> Result<UnixListener, Failed> {
    // The standard library sets this on streams only, but it is the same option of any socket.
    let socket = UnixStream::from(OwnedFd::from(UnixListener::bind(path)?));
    socket.set_read_timeout(Some(GLANCE))?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

impl Process {
    fn start(program: &Path, config: Option<&Value>) -> Result<Self, Failed> {
        let dir = tempfile::tempdir()?;
        let guest = listen(&dir.path().join(format!("vsock_{VSOCK_PORT}")))?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(program);
        command.args(["--api-sock", "api"]);
        if let Some(config) = config {
            fs::write(dir.path().join("config"), config.to_string())?;
            command.args(["--config-file", "config"]);
        }
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = command.spawn()?;
        Ok(Self { child, started, guest, dir })
    }

    /// An error where the process has ended, or was waited for too long.
    fn still_worth_waiting(&mut self, what: &str) -> Result<(), Failed> {
        let why = match self.child.try_wait()? {
            Some(status) => status.to_string(),
            None if self.started.elapsed() > DEADLINE => format!("none in {} s", DEADLINE.as_secs()),
            None => return Ok(()),
        };
        let log = fs::read(self.dir.path().join("log"))?;
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        Err(format!("no {what}: {why}; it printed\n{end}").into())
    }

    fn api(&mut self) -> Result<Http, Failed> {
        loop {
            if let Ok(http) = Http::connect(&self.dir.path().join("api")) {
                return Ok(http);
            }
            self.still_worth_waiting("API")?;
            std::thread::sleep(RETRY);
        }
    }

    /// The agent's connection, after its Hello.
    fn hello(&mut self) -> Result<UnixStream, Failed> {
        let mut stream = loop {
            match self.guest.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.still_worth_waiting("connection of the agent")?,
                Err(error) => return Err(error.into()),
            }
        };
        stream.set_read_timeout(Some(DEADLINE))?;
        let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
        loop {
            if let Some(frame) = decoder.next_frame()? {
                return match GuestMessage::from_frame(frame)? {
                    GuestMessage::Hello(_) => Ok(stream),
                    other => Err(format!("instead of Hello: {other:?}").into()),
                };
            }
            match stream.read(&mut buffer)? {
                0 => return Err("the agent's connection ended before its Hello".into()),
                n => decoder.push(&buffer[..n]),
            }
        }
    }
}

/// A machine whose agent has said Hello. Times count from the process's start.
pub(super) struct Machine {
    process: Process,
    /// Keeps the connection open: the agent would say Hello again.
    _agent: UnixStream,
    /// When the snapshot was loaded and the vCPU ran, by the API's word; of no meaning where it was booted.
    pub(super) running: Duration,
    pub(super) first_frame: Duration,
}

impl Machine {
    /// Boots.
    pub(super) fn boot(program: &Path, setup: &Setup<'_>) -> Result<Self, Failed> {
        let config = json!({
            "boot-source": { "kernel_image_path": fs::canonicalize(&setup.paths.kernel)?, "boot_args": super::line("")? },
            "drives": [{ "drive_id": "root", "path_on_host": fs::canonicalize(setup.root())?, "is_root_device": false, "is_read_only": true }],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": setup.memory_mib },
            "vsock": { "guest_cid": 3, "uds_path": "vsock" },
        });
        let process = Process::start(program, Some(&config))?;
        Self::greeted(process, Duration::ZERO)
    }

    fn greeted(mut process: Process, running: Duration) -> Result<Self, Failed> {
        let agent = process.hello()?;
        let first_frame = process.started.elapsed();
        Ok(Self { process, _agent: agent, running, first_frame })
    }

    /// The process's id.
    pub(super) fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// A full snapshot; the machine's end.
    pub(super) fn snapshot(mut self, program: &Path) -> Result<Snapshot, Failed> {
        let dir = tempfile::tempdir_in(crate::scratch())?;
        let (state, memory) = (dir.path().join("state"), dir.path().join("memory"));
        let mut api = self.process.api()?;
        let mut ask = |method, path, body: Value| api.ok(method, path, "application/json", body.to_string().as_bytes());
        ask("PATCH", "/vm", json!({ "state": "Paused" }))?;
        ask("PUT", "/snapshot/create", json!({ "snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory }))?;
        // Nobody is measured while the disk takes it in.
        File::open(&memory)?.sync_all()?;
        let load = json!({ "snapshot_path": state, "mem_backend": { "backend_type": "File", "backend_path": memory }, "resume_vm": true });
        Ok(Snapshot { program: program.to_owned(), load: load.to_string(), _dir: dir })
    }
}

/// What a park took.
pub(super) struct Park {
    /// To the end of the process.
    pub(super) bare: Duration,
    /// With its files synced before that.
    pub(super) synced: Duration,
    /// Of memory written.
    pub(super) mib: f64,
}

impl Machine {
    /// Pauses it, writes what has changed since it was restored, ends it.
    pub(super) fn park(mut self) -> Result<Park, Failed> {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir_in(crate::scratch())?;
        let (state, memory) = (dir.path().join("state"), dir.path().join("memory"));
        let mut api = self.process.api()?;
        let start = Instant::now();
        let mut ask = |method, path, body: Value| api.ok(method, path, "application/json", body.to_string().as_bytes());
        ask("PATCH", "/vm", json!({ "state": "Paused" }))?;
        ask("PUT", "/snapshot/create", json!({ "snapshot_type": "Diff", "snapshot_path": state, "mem_file_path": memory }))?;
        let written = start.elapsed();
        File::open(&memory)?.sync_data()?;
        File::open(&state)?.sync_data()?;
        let synced = start.elapsed();
        let ending = Instant::now();
        self.process.child.kill()?;
        self.process.child.wait()?;
        let end = ending.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a file's size in MiB")]
        let mib = fs::metadata(&memory)?.blocks() as f64 / 2048.0;
        Ok(Park { bare: written + end, synced: synced + end, mib })
    }
}

/// A machine's snapshot on disk.
pub(super) struct Snapshot {
    program: PathBuf,
    /// What the API is asked.
    load: String,
    _dir: tempfile::TempDir,
}

impl Snapshot {
    /// The same, its machines keeping a dirty log from their restore on.
    pub(super) fn tracked(mut self) -> Self {
        self.load = self.load.replacen('{', "{\"enable_diff_snapshots\":true,", 1);
        self
    }

    /// Restores it in a new process, to the agent's first frame.
    pub(super) fn restore(&self) -> Result<Machine, Failed> {
        let mut process = Process::start(&self.program, None)?;
        process.api()?.ok("PUT", "/snapshot/load", "application/json", self.load.as_bytes())?;
        let running = process.started.elapsed();
        Machine::greeted(process, running)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use torpor_protocol::agent::{Hello, Runtime, VERSION};

    #[test]
    fn a_process_that_ends_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("firecracker");
        fs::write(&program, "#!/bin/sh\necho no such option\nexit 3\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut process = Process::start(&program, None).unwrap();
        let error = process.api().err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such option"), "{error}");
        let error = process.hello().unwrap_err().to_string();
        assert!(error.contains("no connection of the agent"), "{error}");
    }

    #[test]
    fn hello_is_what_a_guest_must_begin_with() {
        let hello = Hello { protocol: VERSION, runtime: Runtime::Exec, agent: String::new(), kernel: String::new() };
        for (message, taken) in [(GuestMessage::Hello(hello), true), (GuestMessage::Loaded, false)] {
            let mut process = Process::start(Path::new("true"), None).unwrap();
            let mut guest = UnixStream::connect(process.dir.path().join(format!("vsock_{VSOCK_PORT}"))).unwrap();
            guest.write_all(&message.to_frame().unwrap().encode().unwrap()).unwrap();
            assert_eq!(process.hello().is_ok(), taken);
        }
    }
}
