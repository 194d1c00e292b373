//! A Hub on this machine: real HTTP servers on the loopback address, one for the Hub and one for the store of large
//! files that it redirects to. A test lets them misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const TOKEN: &str = "hf_aTokenThatIsNotToBeSeenAnywhere";

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// How many with this method and path came before, on this server.
    pub(crate) earlier: usize,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it asks for this file, from the Hub or the store.
    pub(crate) fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.split('?').next().unwrap().ends_with(end)
    }

    /// The first byte asked for.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap());
        range.map_or(0, |first| first.parse().unwrap())
    }
}

/// What is sent back. `Content-Length` is that of the body unless a header says otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    pub(crate) cut_after: Option<usize>,
    /// Send the body in pieces of so many bytes, with a pause after each.
    pub(crate) drip: Option<(usize, Duration)>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Reply {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Reply {
        self.cut_after = Some(bytes);
        self
    }

    /// An error as the Hub words it.
    pub(crate) fn error(status: u16, code: &str) -> Reply {
        Reply::new(status, "{}").with("X-Error-Code", code)
    }

    /// The bytes, or the rest of them from what the request asks for.
    pub(crate) fn content(request: &Received, bytes: &[u8]) -> Reply {
        let from = request.from();
        match bytes.len() {
            _ if request.header("range").is_none() => Reply::new(200, bytes).with("Accept-Ranges", "bytes"),
            len if from >= len => Reply::new(416, "").with("Content-Range", format!("bytes */{len}")),
            len => Reply::new(206, &bytes[from..]).with("Content-Range", format!("bytes {from}-{}/{len}", len - 1)),
        }
    }
}

type Answer = dyn Fn(&Received) -> Reply + Send + Sync;

/// A server and what it was asked. Its threads end with the test.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { address: listener.local_addr().unwrap(), log: Arc::default() };
        let (log, answer): (_, Arc<Answer>) = (server.log.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                // A client that hung up is not the server's problem.
                thread::spawn(move || serve(stream, &log, &*answer).ok());
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn log(&self) -> Vec<Received> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn clear(&self) {
        self.log.lock().unwrap().clear();
    }

    /// The requests of this method whose path ends so.
    pub(crate) fn asked(&self, method: &str, end: &str) -> Vec<Received> {
        self.log().into_iter().filter(|request| request.is(method, end)).collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Received>>, answer: &Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let request = {
        let mut log = log.lock().unwrap();
        let earlier = log.iter().filter(|seen| seen.method == method && seen.path == path).count();
        log.push(Received { method, path, headers, earlier });
        log.last().unwrap().clone()
    };
    send(stream, &request, answer(&request))
}

fn send(mut stream: TcpStream, request: &Received, reply: Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    let chunked = reply.headers.iter().any(|(name, _)| *name == "Transfer-Encoding");
    if !chunked && !reply.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    if chunked {
        stream.write_all(format!("{:x}\r\n", reply.body.len()).as_bytes())?;
        stream.write_all(&reply.body)?;
        return stream.write_all(b"\r\n0\r\n\r\n");
    }
    let body = &reply.body[..reply.cut_after.unwrap_or(usize::MAX).min(reply.body.len())];
    match reply.drip {
        None => stream.write_all(body),
        Some((size, pause)) => body.chunks(size).try_for_each(|piece| {
            stream.write_all(piece)?;
            thread::sleep(pause);
            Ok(())
        }),
    }?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Until the client has taken note: a reset could swallow what was sent last.
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.read(&mut [0; 1]).map(drop)
}

/// A repository: its files, which of them are in large file storage, and what revisions stand at.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) id: &'static str,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) revisions: BTreeMap<String, String>,
}

impl Repo {
    pub(crate) fn new(id: &'static str) -> Repo {
        let revisions = [("main".to_owned(), COMMIT.to_owned()), (COMMIT.to_owned(), COMMIT.to_owned())];
        Repo { id, files: BTreeMap::new(), revisions: revisions.into() }
    }

    pub(crate) fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Repo {
        self.files.insert(name.to_owned(), bytes.into());
        self
    }

    pub(crate) fn revision(mut self, name: &str, commit: &str) -> Repo {
        self.revisions.insert(name.to_owned(), commit.to_owned());
        self.revisions.insert(commit.to_owned(), commit.to_owned());
        self
    }

    pub(crate) fn listing(&self, commit: &str) -> Reply {
        let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        Reply::new(200, serde_json::json!({ "id": self.id, "sha": commit, "siblings": siblings }).to_string())
    }

    /// What the Hub answers when it is well.
    fn answer(&self, request: &Received, store: &str) -> Reply {
        let path = request.path.strip_prefix('/').unwrap();
        if let Some(revision) = path.strip_prefix(&format!("api/models/{}/revision/", self.id)) {
            return match self.revisions.get(&revision.replace("%2F", "/")) {
                Some(commit) => self.listing(commit),
                None => Reply::error(404, "RevisionNotFound"),
            };
        }
        let Some((commit, name)) =
            path.strip_prefix(&format!("{}/resolve/", self.id)).and_then(|rest| rest.split_once('/'))
        else {
            return Reply::error(if request.header("authorization").is_some() { 404 } else { 401 }, "RepoNotFound");
        };
        let Some(bytes) = self.files.get(&name.replace("%20", " ")) else {
            return Reply::error(404, "EntryNotFound");
        };
        let described = |reply: Reply| reply.with("X-Repo-Commit", commit);
        match is_large(name) {
            true => described(Reply::new(302, "moved"))
                .with("Location", format!("{store}/{}?Signature=a-secret", sha256(bytes)))
                .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
                .with("X-Linked-Size", bytes.len()),
            false => described(Reply::content(request, bytes)).with("ETag", format!("\"{}\"", git_like_hash(bytes))),
        }
    }
}

/// As on the Hub: what `.gitattributes` usually sends to large file storage.
pub(crate) fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name == "tokenizer.json"
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Forty digits that depend on the content, as a git hash would.
fn git_like_hash(bytes: &[u8]) -> String {
    sha256(bytes)[..40].to_owned()
}

/// The Hub with one repository, and its store.
pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) store: Server,
}

impl Hub {
    pub(crate) fn start(repo: Repo) -> Hub {
        Hub::misbehaving(repo, |_, _| None)
    }

    /// `meddle` sees each request, with the answer that would be right, and may give another.
    pub(crate) fn misbehaving(
        repo: Repo,
        meddle: impl Fn(&Received, &Reply) -> Option<Reply> + Send + Sync + 'static,
    ) -> Hub {
        let meddle = Arc::new(meddle);
        let (stored, meddles) = (repo.clone(), meddle.clone());
        let store = Server::start(move |request| {
            let name = request.path[1..].split('?').next().unwrap();
            let bytes = stored.files.values().find(|bytes| sha256(bytes) == name);
            let right = bytes.map_or_else(|| Reply::new(403, "AccessDenied"), |bytes| Reply::content(request, bytes));
            meddles(request, &right).unwrap_or(right)
        });
        let at = store.url();
        let server = Server::start(move |request| {
            let right = repo.answer(request, &at);
            meddle(request, &right).unwrap_or(right)
        });
        Hub { server, store }
    }

    /// Every request, to either server.
    pub(crate) fn log(&self) -> Vec<Received> {
        let mut log = self.server.log();
        log.extend(self.store.log());
        log
    }

    /// Nobody but the Hub was given the token.
    pub(crate) fn store_saw_no_token(&self) {
        for request in self.store.log() {
            assert!(!format!("{request:?}").contains(TOKEN), "{request:?}");
        }
    }
}
