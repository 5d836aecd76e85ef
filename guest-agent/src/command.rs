//! The command `torpor` in a guest's PATH: this very program under another name, as a client of the agent's socket (docs/waits.md).

use crate::broker::{SOCKET, SOCKET_VARIABLE};
use crate::request::{MAX_LINE, one_line};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use torpor_protocol::limits::MAX_INPUT;

const NAME: &str = "torpor";
const HELP: &str = "\
torpor waits for what happens outside of this machine.

  torpor call NAME [--timeout S] < IN.json > OUT.json   run a task, give its result
  torpor spawn NAME [--need-by T] [--on-late refuse|run] < IN.json
                                                        start a task, print its execution's id; with T it may be put off, and is done by then
  torpor wait ID... [--timeout S]                       print the results, one line of JSON each
  torpor wait --any ID... [--timeout S]                 wait for one of them, print the ids of those that have ended
  torpor done ID                                        print its state; exit status 1 where it has not ended
  torpor sleep SECONDS                                  wait; time while the machine is parked counts
  torpor event                                          make an event, print its token
  torpor event wait TOKEN [--timeout S]                 wait until it is signalled, print the data

NAME may be NAME@VERSION. No input is the input null. S and SECONDS may have a fraction. T is seconds from now on, or a moment: @ and seconds since 1970.
Exit status: 0 done; 1 a task failed; 2 wrong usage; 3 refused, or the host failed; 124 the time passed.
";

/// How the command ends.
#[derive(Debug, PartialEq, Eq)]
struct End {
    status: u8,
    message: String,
}

fn end(status: u8, message: impl Into<String>) -> End {
    End { status, message: message.into() }
}

fn usage(message: impl Into<String>) -> End {
    end(2, format!("{}; see torpor --help", message.into()))
}

/// What is wanted.
#[derive(Debug, PartialEq)]
enum Command {
    Help,
    Call { task: String, timeout: Option<f64> },
    Spawn { task: String, need_by: Option<NeedBy>, on_late: Option<String> },
    Wait { executions: Vec<String>, any: bool, timeout: Option<f64> },
    Done { execution: String },
    Sleep { seconds: f64 },
    Event,
    EventWait { token: String, timeout: Option<f64> },
}

fn seconds(text: &str) -> Result<f64, End> {
    text.parse().ok().filter(|seconds: &f64| seconds.is_finite()).ok_or_else(|| usage(format!("{text:?} is no number of seconds")))
}

/// Seconds from now on, or a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
enum NeedBy {
    In(f64),
    At(f64),
}

fn need_by(text: &str) -> Result<NeedBy, End> {
    match text.strip_prefix('@') {
        Some(moment) => seconds(moment).map(NeedBy::At),
        None => seconds(text).map(NeedBy::In),
    }
}

/// What options say.
#[derive(Default)]
struct Options {
    any: bool,
    timeout: Option<f64>,
    need_by: Option<NeedBy>,
    on_late: Option<String>,
}

impl Options {
    /// Takes an option in; `value` gives what follows it.
    fn take(&mut self, name: &str, mut value: impl FnMut(&str) -> Result<String, End>) -> Result<(), End> {
        match name {
            "--timeout" => self.timeout = Some(seconds(&value("a number of seconds")?)?),
            "--need-by" => self.need_by = Some(need_by(&value("a number of seconds, or a moment")?)?),
            "--on-late" => match value("refuse or run")? {
                what if what == "refuse" || what == "run" => self.on_late = Some(what),
                other => return Err(usage(format!("--on-late is refuse or run, not {other:?}"))),
            },
            _ => return Err(usage(format!("unknown option {name}"))),
        }
        Ok(())
    }
}

/// The arguments after the command's own name.
fn parse(arguments: &[String]) -> Result<Command, End> {
    let (mut words, mut said, mut options) = (Vec::new(), Options::default(), true);
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--" if options => options = false,
            "--help" | "-h" if options => return Ok(Command::Help),
            "--any" if options => said.any = true,
            other if options && other.starts_with('-') && other.len() > 1 => {
                let (name, inline) = other.split_once('=').map_or((other, None), |(name, value)| (name, Some(value)));
                said.take(name, |what| {
                    let value = inline.map(str::to_owned).or_else(|| rest.next().cloned());
                    value.ok_or_else(|| usage(format!("{name} needs {what}")))
                })?;
            }
            other => words.push(other),
        }
    }
    let Options { any, timeout, need_by, on_late } = said;
    let (command, words) = words.split_first().ok_or_else(|| usage("no command is named"))?;
    if any && *command != "wait" {
        return Err(usage("--any goes with wait only"));
    }
    if (need_by.is_some() || on_late.is_some()) && *command != "spawn" {
        return Err(usage("--need-by and --on-late go with spawn only"));
    }
    let no_timeout =
        |command| if timeout.is_none() { Ok(command) } else { Err(usage("--timeout goes with call, wait and event wait only")) };
    match (*command, words) {
        ("help", _) => Ok(Command::Help),
        ("call", [task]) => Ok(Command::Call { task: (*task).to_owned(), timeout }),
        ("spawn", [task]) => no_timeout(Command::Spawn { task: (*task).to_owned(), need_by, on_late }),
        ("wait", [_, ..]) => Ok(Command::Wait { executions: words.iter().map(|id| (*id).to_owned()).collect(), any, timeout }),
        ("done", [execution]) => no_timeout(Command::Done { execution: (*execution).to_owned() }),
        ("sleep", [text]) => no_timeout(Command::Sleep { seconds: seconds(text)? }),
        ("event", []) => no_timeout(Command::Event),
        ("event", ["wait", token]) => Ok(Command::EventWait { token: (*token).to_owned(), timeout }),
        ("call" | "spawn" | "wait" | "done" | "sleep" | "event", _) => Err(usage(format!("{command} takes other arguments"))),
        _ => Err(usage(format!("there is no command {command}"))),
    }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn limit(timeout: Option<f64>) -> String {
    timeout.map(|seconds| format!(",\"timeout\":{seconds}")).unwrap_or_default()
}

/// The request's line, without its end; `input` is JSON on one line.
fn request(command: &Command, input: &str) -> String {
    match command {
        Command::Help => String::new(),
        Command::Call { task, timeout } => format!("{{\"call\":{},\"input\":{input}{}}}", json(task), limit(*timeout)),
        Command::Spawn { task, need_by, on_late } => {
            let needed = match need_by {
                Some(NeedBy::In(seconds)) => format!(",\"need_by\":{seconds}"),
                Some(NeedBy::At(moment)) => format!(",\"need_by_at\":{moment}"),
                None => String::new(),
            };
            let on_late = on_late.as_ref().map(|what| format!(",\"on_late\":{}", json(what))).unwrap_or_default();
            format!("{{\"spawn\":{},\"input\":{input}{needed}{on_late}}}", json(task))
        }
        Command::Wait { executions, any, timeout } => {
            format!("{{\"wait\":{},\"any\":{any},\"results\":{}{}}}", json(executions), !any, limit(*timeout))
        }
        Command::Done { execution } => format!("{{\"wait\":[{}],\"results\":false,\"timeout\":0}}", json(execution)),
        Command::Sleep { seconds } => format!("{{\"sleep\":{seconds}}}"),
        Command::Event => "{\"event\":\"new\"}".to_owned(),
        Command::EventWait { token, timeout } => format!("{{\"event\":{}{}}}", json(token), limit(*timeout)),
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    error: Option<Failure>,
    #[serde(default)]
    timed_out: bool,
}

#[derive(Deserialize)]
struct Failure {
    kind: String,
    message: String,
    execution: Option<String>,
    state: Option<String>,
    failure: Option<Callee>,
}

#[derive(Deserialize)]
struct Callee {
    kind: String,
    message: String,
}

#[derive(Deserialize)]
struct Entry<'a> {
    execution: String,
    state: String,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Callee>,
    #[serde(default)]
    more: bool,
}

impl Entry<'_> {
    fn ended(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "timed_out" | "cancelled")
    }
}

fn no_host(error: &std::io::Error) -> End {
    end(3, format!("the agent can't be asked: {error}; this command works in an execution of a task only"))
}

/// The connection to the agent.
struct Agent(UnixStream);

impl Agent {
    fn connect() -> Result<Self, End> {
        let path = std::env::var_os(SOCKET_VARIABLE).unwrap_or_else(|| SOCKET.into());
        UnixStream::connect(path).map(Self).map_err(|error| no_host(&error))
    }

    /// One request, and the line that answers it.
    fn ask(&mut self, request: &str) -> Result<Vec<u8>, End> {
        self.0.write_all(request.as_bytes()).and_then(|()| self.0.write_all(b"\n")).map_err(|error| no_host(&error))?;
        let mut line = Vec::new();
        let mut chunk = [0; 16 << 10];
        while line.last() != Some(&b'\n') {
            match self.0.read(&mut chunk) {
                Ok(0) => return Err(end(3, "the agent closed the connection")),
                Ok(len) => line.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(no_host(&error)),
            }
        }
        Ok(line)
    }
}

fn parsed(line: &[u8]) -> Result<Answer<'_>, End> {
    let answer: Answer<'_> = serde_json::from_slice(line).map_err(|error| end(3, format!("the agent's answer is not one: {error}")))?;
    match answer.error {
        None => Ok(answer),
        Some(Failure { kind, message, .. }) if kind == "timeout" => Err(end(124, message)),
        Some(Failure { kind, message, execution, state, failure }) if kind == "task_failed" => {
            let kind = failure.map(|callee| callee.kind).or(state).unwrap_or_default();
            Err(end(1, format!("{}: {kind}: {message}", execution.unwrap_or_default())))
        }
        Some(Failure { kind, message, .. }) => Err(end(3, format!("{kind}: {message}"))),
    }
}

/// What an answer's `ok` holds, as text.
fn okay<'a>(answer: &Answer<'a>) -> &'a str {
    answer.ok.map_or("null", RawValue::get)
}

fn entries<'a>(answer: &Answer<'a>) -> Result<Vec<Entry<'a>>, End> {
    serde_json::from_str(okay(answer)).map_err(|error| end(3, format!("the agent's answer is not one: {error}")))
}

fn string(text: &str) -> Result<String, End> {
    serde_json::from_str(text).map_err(|error| end(3, format!("the agent's answer is not one: {error}")))
}

fn print(text: &str) -> Result<(), End> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| end(3, format!("can't write the output: {error}")))
}

/// JSON on standard input, on one line.
fn input() -> Result<String, End> {
    let mut bytes = Vec::new();
    let most = MAX_LINE as u64;
    std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes).map_err(|error| end(2, format!("can't read the input: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(end(2, format!("the input is larger than {MAX_INPUT} bytes")));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok("null".to_owned());
    }
    let value: &RawValue = serde_json::from_slice(&bytes).map_err(|error| end(2, format!("the input is not JSON: {error}")))?;
    Ok(String::from_utf8(one_line(value.get().as_bytes()).collect()).unwrap_or_default())
}

/// Prints the results that there are, in order, `null` for an execution that has none; says why that is at the end.
fn results(agent: &mut Agent, list: &[Entry<'_>]) -> Result<(), End> {
    let mut failed = Vec::new();
    for entry in list {
        if entry.more {
            let again = Command::Wait { executions: vec![entry.execution.clone()], any: false, timeout: None };
            let line = agent.ask(&request(&again, ""))?;
            let alone = entries(&parsed(&line)?)?;
            match alone.as_slice() {
                [one] if !one.more => results(agent, &alone).or_else(|End { message, .. }| {
                    failed.push(message);
                    Ok(())
                })?,
                _ => return Err(end(3, format!("the host does not give the result of {}", entry.execution))),
            }
        } else if let (Some(result), "succeeded") = (entry.result, entry.state.as_str()) {
            print(result.get())?;
        } else {
            print("null")?;
            failed.push(match &entry.error {
                Some(error) => format!("{}: {}: {}", entry.execution, error.kind, error.message),
                None => format!("{}: {}", entry.execution, entry.state),
            });
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(end(1, failed.join("\n"))) }
}

fn run(command: &Command) -> Result<(), End> {
    let input = match command {
        Command::Help => return print(HELP.trim_end()),
        Command::Call { .. } | Command::Spawn { .. } => input()?,
        _ => String::new(),
    };
    let mut agent = Agent::connect()?;
    let line = agent.ask(&request(command, &input))?;
    let answer = parsed(&line)?;
    match command {
        Command::Call { .. } | Command::EventWait { .. } => print(okay(&answer)),
        Command::Spawn { .. } | Command::Event => print(&string(okay(&answer))?),
        Command::Done { .. } => {
            let list = entries(&answer)?;
            print(list.first().map_or("", |entry| entry.state.as_str()))?;
            if list.iter().all(Entry::ended) { Ok(()) } else { Err(end(1, "")) }
        }
        Command::Wait { timeout, .. } if answer.timed_out => {
            Err(end(124, format!("what was waited for has not ended in {} s", timeout.unwrap_or_default())))
        }
        Command::Wait { any: true, .. } => {
            entries(&answer)?.iter().filter(|entry| entry.ended()).try_for_each(|entry| print(&entry.execution))
        }
        Command::Wait { .. } => results(&mut agent, &entries(&answer)?),
        Command::Sleep { .. } | Command::Help => Ok(()),
    }
}

/// The arguments, where this program was started as the command.
pub(crate) fn called() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os();
    let own = arguments.next()?;
    (Path::new(&own).file_name()? == NAME).then(|| arguments.collect())
}

/// The command.
pub(crate) fn main(arguments: Vec<OsString>) -> ! {
    let words: Result<Vec<String>, OsString> = arguments.into_iter().map(OsString::into_string).collect();
    let done =
        words.map_err(|word| usage(format!("{word:?} is not text"))).and_then(|words| parse(&words)).and_then(|command| run(&command));
    let status = match done {
        Ok(()) => 0,
        Err(End { status, message }) => {
            if !message.is_empty() {
                eprintln!("torpor: {message}");
            }
            status
        }
    };
    std::process::exit(i32::from(status))
}

#[cfg(test)]
#[path = "command/tests.rs"]
mod tests;
