//! The real program as a child process, and a client that sees the bytes as they come.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Anything here that takes longer is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// A worker that listens. It is killed when the test is over, however the test ends.
pub struct Worker {
    child: Child,
    pub address: String,
    lifeline: Option<ChildStdin>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn command(model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker-rbee"));
    // Away from the settings of whoever runs the tests.
    command.args(["--data-dir", "/nonexistent", "--port", "0", "--model"]).arg(model);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end; gives the exit code and what it wrote to standard error.
pub fn outcome(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Polls until the condition holds and gives the time that took.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not {what} in time");
        std::thread::sleep(Duration::from_millis(2));
    }
    started.elapsed()
}

impl Worker {
    /// Starts a worker and waits until it takes requests.
    pub fn ready(model: &Path, arguments: &[&str]) -> Self {
        let worker = Self::listening(model, arguments);
        wait_until("ready", || worker.get("/v1/ready").status == 200);
        worker
    }

    /// Starts a worker and waits until it listens.
    pub fn listening(model: &Path, arguments: &[&str]) -> Self {
        let mut command = command(model);
        // Its pipe closes with this process, so it outlives no test, however that ends.
        command.arg("--exit-with-parent");
        if !arguments.contains(&"--threads") {
            command.args(["--threads", "2"]);
        }
        let mut child = command.args(arguments).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("worker-rbee listening on http://").expect(&line).to_owned();
        let lifeline = child.stdin.take();
        Self { child, address, lifeline }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets go of the pipe that stands for the parent.
    pub fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    pub fn signal(&self, name: &str) {
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &self.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the worker did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn free_slots(&self) -> u64 {
        self.get("/v1/health").json()["slots_available"].as_u64().unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        Answer::read(self.send("GET", path, &[], ""))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[])
    }

    pub fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        Answer::read(self.send("POST", path, headers, &body.to_string()))
    }

    /// Sends a request and leaves the answer to be read; dropping the connection closes it.
    pub fn open(&self, path: &str, body: &Value) -> TcpStream {
        self.send("POST", path, &[], &body.to_string())
    }

    /// Opens a stream of events.
    pub fn events(&self, path: &str, body: Option<&Value>) -> Events {
        let connection = match body {
            Some(body) => self.open(path, body),
            None => self.send("GET", path, &[], ""),
        };
        Events::read(connection)
    }

    /// The generated text and the last event of a request.
    pub fn generate(&self, body: &Value) -> (String, Value) {
        let mut events = self.events("/v1/execute", Some(body));
        let mut text = String::new();
        loop {
            let (name, data) = events.next().expect("a last event");
            match name.as_str() {
                "token" => text.push_str(data["token"].as_str().unwrap()),
                "end" => return (text, data),
                "started" => {}
                other => panic!("{other}: {data}"),
            }
        }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: Vec<String> = headers
            .iter()
            .map(|(name, value)| {
                format!(
                    "{name}: {value}
"
                )
            })
            .collect();
        let headers = headers.concat();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        connection.write_all(request.as_bytes()).unwrap();
        connection
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    fn read(mut connection: TcpStream) -> Self {
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Self { status: head.split(' ').nth(1).unwrap().parse().unwrap(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// Events as they arrive.
pub struct Events {
    receiver: Receiver<(String, Value)>,
    connection: TcpStream,
}

impl Events {
    fn read(connection: TcpStream) -> Self {
        let (sender, receiver) = channel();
        let lines = BufReader::new(connection.try_clone().unwrap()).lines();
        std::thread::spawn(move || {
            let mut name = String::new();
            // The chunked coding's lengths and the comments between events are no lines of either kind.
            for line in lines.map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("event: ") {
                    rest.clone_into(&mut name);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    let event = (std::mem::take(&mut name), serde_json::from_str(data).unwrap());
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Self { receiver, connection }
    }

    /// The next event; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<(String, Value)> {
        self.receiver.recv().ok()
    }

    /// Waits for an event of this name and gives its data.
    pub fn await_named(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) =
                self.next().unwrap_or_else(|| panic!("the stream ended before an event {wanted}"));
            if name == wanted {
                return data;
            }
        }
    }

    /// Closes the connection, as a client that leaves does.
    pub fn leave(self) {
        self.connection.shutdown(std::net::Shutdown::Both).unwrap();
    }
}
