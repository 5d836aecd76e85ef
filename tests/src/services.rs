//! Services for programs to talk to: a PostgreSQL of Debian, an HTTP server, and one that sends back what it gets. Each is private to its test, and gone with
//! its value.

use crate::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A port that nobody had a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

fn answers(port: u16) {
    until("a service", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).ok());
}

/// A server of PostgreSQL, with a data folder of its own, run by a user without rights. User `torpor`, database `postgres`, no password.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    server: Child,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// The newest version that is installed.
fn postgres_bin() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is not installed: run scripts/test, or apt-get install postgresql");
    let mut versions: Vec<_> =
        versions.map(|entry| entry.expect("a folder").path().join("bin")).filter(|bin| bin.join("postgres").exists()).collect();
    versions.sort();
    versions.pop().expect("a server of PostgreSQL")
}

/// PostgreSQL does not run as root.
fn as_nobody(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL", "--"]).arg(program);
    command
}

impl Postgres {
    /// Makes one and waits until it answers.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("torpor-postgres-").tempdir().expect("a temporary folder");
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody").expect("users").expect("nobody");
            nix::unistd::chown(folder.path(), Some(nobody.uid), Some(nobody.gid)).expect("chown");
        }
        let (data, bin, port) = (folder.path().join("data"), postgres_bin(), free_port());
        let made =
            as_nobody(&bin.join("initdb")).args(["-A", "trust", "-U", "torpor", "--no-sync", "-D"]).arg(&data).current_dir("/").output();
        let made = made.expect("initdb can be started");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let server = as_nobody(&bin.join("postgres"))
            .args(["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-p", &port.to_string(), "-k"])
            .arg(folder.path())
            .arg("-D")
            .arg(&data)
            .current_dir("/")
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postgres can be started");
        let this = Self { folder, server, port };
        until("PostgreSQL", Duration::from_secs(60), || {
            let ready = Command::new(bin.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status();
            ready.expect("pg_isready can be started").success().then_some(())
        });
        this
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// What `psql` gives for a query: one value a line.
    #[must_use]
    pub fn ask(&self, sql: &str) -> String {
        self.ask_in("postgres", sql)
    }

    /// The same in another database.
    #[must_use]
    pub fn ask_in(&self, database: &str, sql: &str) -> String {
        let port = self.port.to_string();
        let output = Command::new(postgres_bin().join("psql"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "torpor", "-At", "-c", sql, database])
            .output();
        let output = output.expect("psql can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.server.id()).unwrap_or(i32::MAX)), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

/// Answers `{"method": ..., "path": ..., "body": ...}` and writes each request down, headers included.
const HTTP_SERVER: &str = r#"
import http.server, json, ssl, sys
port, log, certificate = int(sys.argv[1]), open(sys.argv[2], "a"), sys.argv[3] if len(sys.argv) > 3 else None
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {"method": self.command, "path": self.path, "body": body.decode()}
        log.write(json.dumps({**told, "headers": [[k.lower(), v] for k, v in self.headers.items()]}) + "\n")
        log.flush()
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Server", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
if certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// A server of Python's `http.server`.
#[derive(Debug)]
pub struct HttpServer {
    folder: TempDir,
    server: Child,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

impl HttpServer {
    /// Starts one and waits until it answers. With `tls`, for the name `localhost`.
    #[must_use]
    pub fn start(tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let mut command = Command::new("python3");
        command.args(["-I", "-c", HTTP_SERVER, &port.to_string()]).arg(folder.path().join("requests"));
        if tls {
            command.arg(certificate(folder.path()));
        }
        let server = command.stdin(Stdio::null()).spawn().expect("python3 can be started");
        answers(port);
        Self { folder, server, port }
    }

    /// The file of the certificate that it shows, and its key.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// Requests that it got.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("requests")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Makes a certificate that signs itself, for the name `localhost`, in this folder; its file and that of its key.
#[must_use]
pub fn self_signed(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl can be started");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

/// The same with both in one file.
fn certificate(folder: &Path) -> PathBuf {
    let (both, key) = self_signed(folder);
    let text = fs::read_to_string(&both).expect("a certificate") + &fs::read_to_string(&key).expect("a key");
    fs::write(&both, text).expect("a file");
    both
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Sends back what it gets, and what it is told to send to all.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    streams: std::sync::Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Echo {
    /// Starts one; its thread ends with the process.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let streams = std::sync::Arc::<std::sync::Mutex<Vec<TcpStream>>>::default();
        let all = std::sync::Arc::clone(&streams);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                all.lock().expect("no panics").push(stream.try_clone().expect("a second handle"));
                std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    while let Ok(len @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                    }
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { port, streams }
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.streams.lock().expect("no panics").len()
    }

    /// Sends this to all who are connected.
    pub fn tell(&self, text: &str) {
        for stream in self.streams.lock().expect("no panics").iter_mut() {
            let _ = stream.write_all(text.as_bytes());
        }
    }
}
