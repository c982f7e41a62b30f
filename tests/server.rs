//! A server on this machine, as good or as bad as a test needs it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What a client asks.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// What follows the `?`.
    #[cfg_attr(not(feature = "object-store"), expect(dead_code))]
    pub(crate) query: String,
    /// By name in small letters.
    pub(crate) headers: BTreeMap<String, String>,
    #[cfg_attr(not(feature = "object-store"), expect(dead_code))]
    pub(crate) body: Vec<u8>,
}

/// What it is told.
pub(crate) struct Reply {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    /// Bytes of the body that are sent; then the connection ends, if it is not all of them.
    sent: usize,
    /// Whether the server falls silent then instead.
    silent: bool,
    /// How long it waits after every `SLICE` bytes.
    pause: Duration,
}

impl Reply {
    pub(crate) fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: String::new(), sent: body.len(), body, silent: false, pause: Duration::ZERO }
    }

    pub(crate) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Ends the connection after so many bytes.
    pub(crate) fn cut(mut self, sent: usize) -> Self {
        self.sent = sent.min(self.body.len());
        self
    }

    /// Sends so many bytes and nothing more, without ending the connection.
    pub(crate) fn silent(self, sent: usize) -> Self {
        Self { silent: true, ..self.cut(sent) }
    }

    /// Takes its time.
    pub(crate) fn slow(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

/// Bytes that are sent at once.
const SLICE: usize = 1 << 16;

/// A server whose answers depend on a state that tests may look at and change.
pub(crate) struct Server<S> {
    pub(crate) address: String,
    state: Arc<Mutex<S>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl<S: Send + 'static> Server<S> {
    pub(crate) fn start(state: S, answer: fn(&Request, &mut S) -> Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (state, asked) = (Arc::new(Mutex::new(state)), Arc::<Mutex<Vec<String>>>::default());
        let (shared, log) = (state.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, log) = (shared.clone(), log.clone());
                std::thread::spawn(move || {
                    while let Some(request) = read(&stream) {
                        let range =
                            request.headers.get("range").map_or_else(String::new, |r| format!(" {r}"));
                        log.lock().unwrap().push(format!("{} {}{range}", request.method, request.path));
                        let reply = answer(&request, &mut state.lock().unwrap());
                        if send(&stream, &request, &reply).is_none() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, state, asked }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap()
    }

    /// Method, path and range of the requests since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    lines.read_line(&mut first).ok().filter(|&n| n > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let (method, path) = first.split_once(' ')?;
    let path = path.split(' ').next()?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    Some(Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers, body })
}

/// `None` ends the connection.
fn send(mut stream: &TcpStream, request: &Request, reply: &Reply) -> Option<()> {
    let Reply { status, headers, body, sent, silent, pause } = reply;
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    for slice in body[..*sent].chunks(SLICE) {
        stream.write_all(slice).ok()?;
        std::thread::sleep(*pause);
    }
    if *silent && *sent < body.len() {
        std::thread::sleep(Duration::from_secs(600));
    }
    (*sent == body.len()).then_some(())
}
