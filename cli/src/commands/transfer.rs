//! `export` and `import`: a parked execution moves to another host.

use crate::api::Execution;
use crate::args::ExportArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, short, size};
use crate::upload::{Progress, Upload};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the daemon may take to check and keep what it got.
const KEEP: Duration = Duration::from_secs(3600);

/// A file that is not whole yet, beside the one that it becomes; gone when it does not.
struct Part {
    path: PathBuf,
    file: File,
    whole: bool,
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CliError + 'a {
    move |source| CliError::File { what, path: path.to_owned(), source }
}

impl Part {
    fn of(output: &Path) -> Result<Self, CliError> {
        if output.exists() {
            return Err(CliError::Usage(format!("{} is there already; an export does not write over it", output.display())));
        }
        let mut name = OsString::from(".");
        name.push(output.file_name().ok_or_else(|| CliError::Usage(format!("{} is not a file's name", output.display())))?);
        name.push(".part");
        let path = output.with_file_name(name);
        let file = File::options().write(true).create(true).truncate(true).open(&path).map_err(at("can't write", &path))?;
        Ok(Self { path, file, whole: false })
    }

    /// Safe on disk under its name.
    fn keep(mut self, output: &Path) -> Result<(), CliError> {
        let kept = self.file.sync_all().and_then(|()| fs::rename(&self.path, output));
        // It is the only copy of the execution: under whatever name, it stays.
        self.whole = true;
        kept.map_err(|source| CliError::File {
            what: "the execution is in the file, which can't be given its name:",
            path: self.path.clone(),
            source,
        })
    }
}

pub(super) async fn export(client: &Client, output: Output, args: ExportArgs) -> Result<(), CliError> {
    let mut part = Part::of(&args.output)?;
    let path = format!("/v1/executions/{}/export?template={}", escape(&args.id), !args.without_template);
    let answer = client.in_time(client.open(Method::POST, &path, Payload::None)).await??;
    let mut progress = Progress::new("received", None);
    if let Err(error) = receive(client, answer.into_body(), &mut part, &mut progress).await {
        drop(progress);
        return Err(broken_off(client, &args.id, part, error).await);
    }
    let bytes = progress.done();
    drop(progress);
    part.keep(&args.output)?;
    if output.wants_json() {
        return output.json(&json!({ "exported": args.id, "file": args.output, "bytes": bytes }).to_string());
    }
    output.line(&format!("{}  exported to {}, {}; it goes on where that is imported", args.id, args.output.display(), size(bytes)))
}

/// The execution is where it was, unless the daemon gave it up right before the end: then what came is all that there is of it.
async fn broken_off(client: &Client, id: &str, mut part: Part, error: CliError) -> CliError {
    let left = match client.get::<Execution>(&format!("/v1/executions/{}", escape(id))).await {
        Ok(reply) => reply.value.error.is_some_and(|error| error.kind == "moved"),
        Err(_) => true,
    };
    if !left {
        return error;
    }
    part.whole = true;
    let kept = part.path.display();
    CliError::Usage(format!("{error}; the execution may have left its host: what came of it is kept in {kept}, without its last bytes"))
}

async fn receive(client: &Client, mut body: Incoming, part: &mut Part, progress: &mut Progress) -> Result<(), CliError> {
    loop {
        let frame = tokio::select! {
            frame = client.in_time(body.frame()) => frame?,
            Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
        };
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|_| client.lost("the export was broken off"))?;
        if let Ok(piece) = frame.into_data() {
            part.file.write_all(&piece).map_err(at("can't write", &part.path))?;
            progress.add(piece.len());
        }
    }
}

pub(super) async fn import(client: &Client, output: Output, path: &Path) -> Result<(), CliError> {
    let upload = File::open(path).and_then(Upload::new).map_err(at("can't read", path))?;
    let reply = client.json::<Execution>(Method::POST, "/v1/executions/import", Payload::Upload(upload), KEEP).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let execution = reply.value;
    let waits = crate::timeline::waiting(&execution);
    let name = format!("{}  {}@{}", execution.id, execution.task, short(&execution.version));
    output.line(&format!("{name}  imported, {}; it waits for {waits}", execution.state.0))
}
