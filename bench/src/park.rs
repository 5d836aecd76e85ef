//! Parks and resumes: of single machines without the daemon, and of many executions through torpord.
//!
//! A park counts from the command to the reaped process: everything durable, memory and vCPU free. What torpord adds to it (the file's name and the
//! record in its database) is in the figures of executions.

use crate::api::Daemon;
use crate::http::Http;
use crate::restore::private_mib;
use crate::stats::{Samples, Table};
use crate::vm::{self, Paths, Said, Template, Vm};
use crate::{Failed, code};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::{Duration, Instant};
use torpor_protocol::agent::{GuestMessage, HostMessage};
use torpor_protocol::ask::{Answer, Answers, Reply};
use torpor_protocol::monitor::{Command, Packing, ParkKey};

/// Executions that are parked at once.
const CROWD: usize = 1000;
/// Parks of one execution.
const CYCLES: usize = 1000;
/// MiB that a program changes.
const CHANGED: [usize; 3] = [0, 1, 4];

/// Changes memory as programs do, pages one beside the other, with bytes that do not compress; waits; says what it remembers.
const PROGRAM: &str = "\
import random, time, zlib, torpor

noise = memoryview(random.Random(1).randbytes(4 << 20))
ballast = memoryview(bytearray(4 << 20))

def handler(input, context):
    changed = ballast[:input.get('mib', 0) << 20]
    changed[:] = noise[:len(changed)]
    total = zlib.crc32(changed)
    if input.get('event'):
        return [torpor.event().wait(), zlib.crc32(changed) == total]
    done = 0
    for _ in range(input.get('cycles', 1)):
        torpor.sleep(input.get('sleep', 3600))
        done += zlib.crc32(changed) == total
    return done
";

fn folder(dir: &Path) -> Result<PathBuf, Failed> {
    let folder = dir.join("parker");
    fs::create_dir(&folder)?;
    fs::write(folder.join("main.py"), PROGRAM)?;
    let policy = "[policy]\nmemory = \"128MiB\"\npark = \"always\"\ntimeout = \"1h\"\n";
    fs::write(
        folder.join("torpor.toml"),
        format!("[task]\nname = \"parker\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n{policy}"),
    )?;
    Ok(folder)
}

/// What parks and resumes of one kind took.
#[derive(Default)]
struct Cycle {
    still: Samples,
    park: Samples,
    stored: Samples,
    resume: [Samples; 2],
    result: Samples,
}

struct Bench<'a> {
    paths: &'a Paths,
    kvm: File,
    template: Template,
    file: File,
}

impl Bench<'_> {
    fn machine(&self, new: bool) -> Result<(Vm, Instant), Failed> {
        let start = Instant::now();
        let vm = Vm::prepare(&self.paths.monitors, &self.kvm, self.template.memory_mib)?;
        if new {
            return Ok((vm, start));
        }
        vm.prepared()?;
        std::thread::sleep(Duration::from_millis(5));
        Ok((vm, Instant::now()))
    }

    /// One life: started, parked, resumed twice, in a warm monitor and in a new one.
    fn cycle(&self, mib: usize, packing: Packing, sealed: bool, cycle: &mut Cycle) -> Result<(), Failed> {
        let (mut vm, _) = self.machine(false)?;
        vm.restore(&self.template, Some(vm::start_frame(json!({ "mib": mib }).to_string().as_bytes())?))?;
        let asked = vm.until(|said| matches!(said, Said::Message(GuestMessage::Ask { .. })))?;
        let Said::Message(GuestMessage::Ask { ask, .. }) = asked else { return Err("no ask".into()) };
        vm.until(|said| matches!(said, Said::AtDoor))?;
        // As for an execution that holds secrets: a key for each file.
        let key = sealed.then(fresh_key).transpose()?;
        let start = Instant::now();
        vm.client.send(&Command::Park { origin: Vec::new(), packing, key: key.clone() }, &[self.file.as_fd()])?;
        let parked = vm.until(|said| matches!(said, Said::Parked { .. }))?;
        cycle.still.add_ms(start.elapsed());
        vm.kill()?;
        cycle.park.add_ms(start.elapsed());
        let Said::Parked { stored_bytes } = parked else { return Err("not parked".into()) };
        #[expect(clippy::cast_precision_loss, reason = "a file's size")]
        cycle.stored.add(stored_bytes as f64 / f64::from(1 << 20));
        for (new, samples) in [false, true].into_iter().zip(&mut cycle.resume) {
            let answers =
                Answers { resumed: true, seed: Some("5a".repeat(32)), answers: vec![Answer { seq: ask.seq, reply: Reply::Slept }] };
            let inbox = HostMessage::Answers { answers, payload: Vec::new() }.to_frame()?.encode()?;
            let file = File::open(self.path())?;
            let (mut vm, start) = self.machine(new)?;
            let code = self.template.code.as_ref().ok_or("no code")?;
            let fds = [file.as_fd(), self.template.memory.as_fd(), self.template.root.as_fd(), code.as_fd()];
            vm.client.send(&Command::Resume { inbox, key: key.clone() }, &fds)?;
            vm.until(|said| matches!(said, Said::Running))?;
            samples.add_ms(start.elapsed());
            let Said::Message(GuestMessage::Result { json, .. }) =
                vm.until(|said| matches!(said, Said::Message(GuestMessage::Result { .. })))?
            else {
                return Err("no result".into());
            };
            if !new {
                cycle.result.add_ms(start.elapsed());
            }
            if json != b"1" {
                return Err(format!("the machine does not remember: {}", String::from_utf8_lossy(&json)).into());
            }
            vm.kill()?;
        }
        Ok(())
    }

    /// Each open file description has a lock of its own.
    fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

fn fresh_key() -> Result<ParkKey, Failed> {
    let mut bytes = [0; 32];
    std::io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(ParkKey::new(bytes.into()))
}

/// Parks and resumes of single machines; the median park of 4 MiB.
pub(crate) fn machines(paths: &Paths, runs: usize, table: &mut Table) -> Result<Samples, Failed> {
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let kvm = vm::kvm()?;
    let runtime = vm::runtime_template(paths, &kvm, &paths.images.join("python.erofs"), 128, dir.path())?;
    let image = code::of_folder(&folder(dir.path())?, dir.path())?;
    let template = vm::task_template(paths, &kvm, &runtime, &image, "main.py:handler", dir.path())?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(dir.path().join("parked"))?;
    let bench = Bench { paths, kvm, template, file };
    let mut largest = Samples::default();
    for mib in CHANGED {
        for (name, packing, sealed) in [
            ("as it is", Packing::None, false),
            ("fast", Packing::Fast, false),
            ("small", Packing::Small, false),
            ("as it is, encrypted", Packing::None, true),
            ("fast, encrypted", Packing::Fast, true),
        ] {
            bench.cycle(mib, packing, sealed, &mut Cycle::default())?;
            let mut cycle = Cycle::default();
            for _ in 0..runs {
                bench.cycle(mib, packing, sealed, &mut cycle)?;
            }
            let what = format!("{mib} MiB changed, packing {name}");
            table.add(&format!("park: guest stands still, {what}"), "ms", &cycle.still);
            table.add(&format!("park: to a free machine, {what}"), "ms", &cycle.park);
            table.add(&format!("park: on disk, {what}"), "MiB", &cycle.stored);
            table.add(&format!("resume to vCPU running, warm monitor, {what}"), "ms", &cycle.resume[0]);
            table.add(&format!("resume to vCPU running, new monitor, {what}"), "ms", &cycle.resume[1]);
            table.add(&format!("resume to the result, warm monitor, {what}"), "ms", &cycle.result);
            if packing == Packing::Fast && !sealed {
                largest = cycle.park;
            }
        }
    }
    Ok(largest)
}

fn get(http: &mut Http, path: &str) -> Result<Value, Failed> {
    http.ok("GET", path, "application/json", b"")
}

fn submit(http: &mut Http, input: &Value) -> Result<String, Failed> {
    let answer = http.ok("POST", "/v1/tasks/parker/executions", "application/json", input.to_string().as_bytes())?;
    Ok(answer["id"].as_str().ok_or("no id")?.to_owned())
}

fn ended(http: &mut Http, id: &str) -> Result<Value, Failed> {
    loop {
        let answer = get(http, &format!("/v1/executions/{id}?wait=60"))?;
        if answer["finished_at"].is_string() {
            return Ok(answer);
        }
    }
}

fn descriptors(pid: u32) -> Result<usize, Failed> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn one(value: f64) -> Samples {
    let mut samples = Samples::default();
    samples.add(value);
    samples
}

/// Many executions parked at once, and one that is parked many times.
#[expect(clippy::cast_precision_loss, reason = "counts and sizes")]
pub(crate) fn executions(bin: &Path, paths: &Paths, table: &mut Table) -> Result<(), Failed> {
    let daemon = Daemon::start(bin, paths)?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let mut http = Http::connect(&daemon.socket())?;
    let packed = Program::new("tar").arg("-C").arg(folder(dir.path())?).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    let first = submit(&mut http, &json!({ "sleep": 0.2 }))?;
    ended(&mut http, &first)?;

    let (before, start) = (private_mib(daemon.id())?, Instant::now());
    let ids: Vec<String> = (0..CROWD).map(|_| submit(&mut http, &json!({ "event": true }))).collect::<Result<_, _>>()?;
    let parked = loop {
        let host = get(&mut http, "/v1/host")?;
        if host["parked"] == CROWD {
            break host;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    table.add(&format!("{CROWD} executions: started and parked a second"), "1/s", &one(CROWD as f64 / start.elapsed().as_secs_f64()));
    table.add("a parked execution: on disk", "KiB", &one(parked["parked_bytes"].as_f64().unwrap_or(0.0) / 1024.0 / CROWD as f64));
    table.add("a parked execution: memory of torpord", "KiB", &one((private_mib(daemon.id())? - before) * 1024.0 / CROWD as f64));
    table.add("a parked execution: memory charged", "B", &one(parked["memory_used_bytes"].as_f64().unwrap_or(f64::NAN)));
    let tokens = ids.iter().map(|id| {
        let execution = get(&mut http, &format!("/v1/executions/{id}"))?;
        Ok(execution["waiting"][0]["token"].as_str().ok_or("no token")?.to_owned())
    });
    let tokens: Vec<String> = tokens.collect::<Result<_, Failed>>()?;
    let start = Instant::now();
    for (number, token) in tokens.iter().enumerate() {
        http.ok("POST", &format!("/v1/events/{token}"), "application/json", number.to_string().as_bytes())?;
    }
    for (number, id) in ids.iter().enumerate() {
        let result = ended(&mut http, id)?["result"].take();
        if result != json!([number, true]) {
            return Err(format!("{id} gave {result} instead of {number}").into());
        }
    }
    table.add(
        &format!("{CROWD} executions: resumed to the right result a second"),
        "1/s",
        &one(CROWD as f64 / start.elapsed().as_secs_f64()),
    );
    cycles(&daemon, &mut http, table)
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes")]
fn cycles(daemon: &Daemon, http: &mut Http, table: &mut Table) -> Result<(), Failed> {
    let (memory, fds) = (private_mib(daemon.id())?, descriptors(daemon.id())?);
    let id = submit(http, &json!({ "cycles": CYCLES, "sleep": 0.05, "mib": 1 }))?;
    let whole = ended(http, &id)?;
    if whole["result"] != CYCLES {
        return Err(format!("a machine was not what it was before: {whole}").into());
    }
    table.add("1000 waits of one execution: parks", "", &one(whole["parks"].as_f64().unwrap_or(0.0)));
    table.add("1000 waits of one execution: torpord's memory, growth", "MiB", &one(private_mib(daemon.id())? - memory));
    table.add("1000 waits of one execution: torpord's descriptors, growth", "", &one(descriptors(daemon.id())? as f64 - fds as f64));
    let bytes = get(http, "/v1/host")?["parked_bytes"].as_f64().unwrap_or(f64::NAN);
    table.add("1000 waits of one execution: parked machines left", "B", &one(bytes));
    let mut park = Samples::default();
    for entry in whole["timeline"].as_array().into_iter().flatten().filter(|entry| entry["event"] == "parked") {
        park.add(entry["micros"].as_f64().unwrap_or(0.0) / 1000.0);
    }
    table.add("park through torpord, from the decision to the record, 1 MiB changed", "ms", &park);
    Ok(())
}
