//! Runs of `torpor`, each with a deadline.

use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// No command of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(240);

/// What a run left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Itself, if it ended with this code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", head(&self.stdout), head(&self.stderr));
        self
    }

    /// Standard output as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", head(&self.stdout)))
    }

    /// Panics unless standard error holds all of these.
    pub fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in: {}", head(&self.stderr));
        }
        self
    }
}

fn head(text: &str) -> String {
    text.chars().take(4000).collect()
}

fn reader(mut source: impl Read + Send + 'static) -> JoinHandle<String> {
    spawn(move || {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).expect("the pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts a command with this standard input.
    #[must_use]
    pub fn start(mut command: Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
        // A command that does not read its input closes it: its right.
        spawn(move || drop(stdin.write_all(&input)));
        let stdout = reader(child.stdout.take().expect("piped"));
        let stderr = reader(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// Waits for its end.
    #[must_use]
    pub fn end(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if start.elapsed() > DEADLINE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("not done in {DEADLINE:?}; stderr: {}", head(&self.stderr.join().expect("reader")));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let code = status.code().or_else(|| signal.map(|signal| 128 + signal)).unwrap_or(-1);
        Ran { code, stdout: self.stdout.join().expect("reader"), stderr: self.stderr.join().expect("reader") }
    }
}
