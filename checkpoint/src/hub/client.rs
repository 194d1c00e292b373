//! The Hub's protocol: which commit a revision is, which files it has, where a file's bytes are. Every answer that is
//! not one becomes an error that says what to do.

use std::fmt::Display;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::environment::Token;
use super::http::{Fault, Http, Method, Request, Response, Url, encoded};
use super::id::{HubId, is_commit, is_hostile_path};
use crate::error::{Error, ErrorKind, Result, printable, quoted};

/// Redirects in a row that are followed.
const MOST_HOPS: usize = 10;
/// 64 MiB: a listing of half a million files.
const MOST_LISTING: u64 = 64 << 20;

/// How long and how often a server is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Attempts in a row that bring nothing before it is given up.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub pause: Duration,
    /// The longest pause, also where a server asks for more.
    pub longest_pause: Duration,
    /// How long a connection may be silent, or slower than a kibibyte per second.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            attempts: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(300),
            stall: Duration::from_secs(30),
        }
    }
}

pub(super) struct Client<'a> {
    pub(super) http: &'a dyn Http,
    pub(super) endpoint: Url,
    pub(super) token: Option<Token>,
    pub(super) patience: &'a Patience,
    /// Set once one of several parallel calls has failed: the others need not go on.
    pub(super) stopped: AtomicBool,
}

/// A revision as the Hub describes it.
pub(super) struct Listing {
    pub(super) commit: String,
    /// Paths in the repository.
    pub(super) files: Vec<String>,
}

/// A file as the Hub describes it.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) name: String,
    /// The name of its content: a SHA-256 for files in large file storage. A plain file name.
    pub(super) etag: String,
    pub(super) size: u64,
}

/// Why an attempt failed.
pub(super) enum Trouble {
    /// It may go better the next time, after a pause that the server may have named.
    Passing(Error, Option<Duration>),
    Lasting(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Lasting(error)
    }
}

/// What a request is about, for messages.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) id: HubId<'a>,
    pub(super) file: Option<&'a str>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client<'_> {
    /// The commit and the files of the id's revision; asked for at most `attempts` times.
    pub(super) fn listing(&self, id: HubId, attempts: u32) -> Result<Listing> {
        let subject = Subject { id, file: None };
        let url = self.at(&format!("api/models/{}/revision/{}", id.repo, encoded(id.revision())))?;
        let body = self.patiently(attempts, || {
            let (response, url) = self.follow(Method::Get, &url, 0, subject)?;
            let mut body = Vec::new();
            let read = response.body.take(MOST_LISTING).read_to_end(&mut body);
            read.map_err(|e| Trouble::Passing(self.cut(&url, &e), None))?;
            Ok(body)
        })?;
        let raw: RawListing = serde_json::from_slice(&body).map_err(|e| {
            network(format!(
                "{url} answered with something else than a list of files: {}",
                printable(&e.to_string(), 200)
            ))
            .with_hint("a proxy or login page may have answered; HF_ENDPOINT names the Hub that is asked")
        })?;
        if !is_commit(&raw.sha) {
            return Err(refused(format!("{url} names {} as the commit, which is no hash", quoted(&raw.sha))));
        }
        let files: Vec<String> = raw.siblings.into_iter().map(|file| file.rfilename).collect();
        if let Some(hostile) = files.iter().find(|path| is_hostile_path(path)) {
            return Err(refused(format!("{url} lists a file {}, which leads out of the repository", quoted(hostile))));
        }
        Ok(Listing { commit: raw.sha, files })
    }

    /// What a file of a commit is called in the cache, and its length.
    pub(super) fn blob(&self, id: HubId, commit: &str, name: &str) -> Result<Blob> {
        let subject = Subject { id, file: Some(name) };
        let url = self.file_url(id, commit, name)?;
        self.patiently(self.patience.attempts, || {
            let (response, at) = self.follow(Method::Head, &url, 0, subject)?;
            let moved = response.header("x-repo-commit").filter(|answered| *answered != commit);
            if let Some(other) = moved {
                let problem = format!("{at} answered for commit {}, asked for {commit}", quoted(other));
                return Err(network(problem).into());
            }
            let stated = response.header("x-linked-etag").or_else(|| response.header("etag"));
            let Some(etag) = stated.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned()) else {
                return Err(network(format!("{at} names no ETag"))
                    .with_hint("is HF_ENDPOINT a Hub? without an ETag a file cannot be kept in the cache")
                    .into());
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if etag.is_empty() || etag.len() > 128 || !etag.chars().all(plain) {
                return Err(
                    refused(format!("{at} names the ETag {}, which is no name of a blob", quoted(&etag))).into()
                );
            }
            // The length of a redirect is not the length of the file.
            let own = (response.status == 200).then(|| response.number("content-length")).flatten();
            let Some(size) = response.number("x-linked-size").or(own) else {
                return Err(
                    network(format!("{at} names no length, so that a part cannot be told from the whole")).into()
                );
            };
            Ok(Blob { name: name.to_owned(), etag, size })
        })
    }

    /// Where a file of a commit is.
    pub(super) fn file_url(&self, id: HubId, commit: &str, name: &str) -> Result<Url> {
        self.at(&format!("{}/resolve/{commit}/{}", id.repo, encoded(name)))
    }

    /// Sends a request and follows redirects, to an answer of 200, 206 or 416.
    ///
    /// The token goes to the Hub itself and to nobody else. A `Head` ends with a redirect that describes the file, as the
    /// Hub's do: what stores the bytes knows less.
    pub(super) fn follow(
        &self,
        method: Method,
        url: &Url,
        from: u64,
        subject: Subject,
    ) -> Result<(Response, Url), Trouble> {
        let mut url = url.clone();
        for _ in 0..MOST_HOPS {
            let token = self.token.as_ref().filter(|_| url.same_origin(&self.endpoint));
            let sent = self.http.send(&Request { method, url: &url, token, from });
            let response = sent.map_err(|fault| self.unreachable(&url, &fault))?;
            match response.status {
                200 | 206 | 416 => return Ok((response, url)),
                301 | 302 | 303 | 307 | 308 => {
                    let Some(next) =
                        response.header("location").filter(|to| !to.is_empty()).and_then(|to| url.join(to))
                    else {
                        return Err(network(format!("{url} redirects to no address that can be read")).into());
                    };
                    if url.is_https() && !next.is_https() {
                        return Err(refused(format!("{url} redirects to {next}, which is not encrypted")).into());
                    }
                    let has = |name: &str| response.header(name).is_some();
                    let described =
                        has("x-linked-etag") && has("x-linked-size") || has("etag") && !next.same_origin(&url);
                    if method == Method::Head && described {
                        return Ok((response, url));
                    }
                    url = next;
                }
                408 | 429 | 500 | 502 | 503 | 504 => {
                    return Err(Trouble::Passing(self.busy(&response, &url), asked_to_wait(&response)));
                }
                _ => return Err(self.refusal(&response, &url, subject).into()),
            }
        }
        Err(network(format!("{url} is where more than {MOST_HOPS} redirects led, and it redirects again")).into())
    }

    /// Runs `attempt` until it succeeds, fails for good, or has failed `attempts` times.
    pub(super) fn patiently<T>(&self, attempts: u32, mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T> {
        let mut failed = 0_u32;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(error, wait)) => {
                    failed = failed.saturating_add(1);
                    if failed >= attempts {
                        return Err(error.after_attempts(failed));
                    }
                    self.pause(failed, wait, error)?;
                }
            }
        }
    }

    /// Waits after the `failed`th failure in a row. Gives `error` back where the server asks for more than our patience.
    pub(super) fn pause(&self, failed: u32, asked: Option<Duration>, error: Error) -> Result<()> {
        let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause =
            asked.unwrap_or_else(|| self.patience.pause.saturating_mul(doubled).min(self.patience.longest_pause));
        if pause > self.patience.longest_pause {
            return Err(error.with_hint(format!("the server asks to come back in {} s", pause.as_secs())));
        }
        let since = Instant::now();
        while let Some(left) = pause.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
            self.go_on()?;
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        self.go_on()
    }

    /// Fails once another thread has failed.
    pub(super) fn go_on(&self) -> Result<()> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(network("stopped, since another file failed")),
            false => Ok(()),
        }
    }

    fn at(&self, path: &str) -> Result<Url> {
        let base = &self.endpoint;
        base.with_path(path).ok_or_else(|| network(format!("{base} and {} make no address", quoted(path))))
    }

    pub(super) fn cut(&self, url: &Url, cause: &dyn Display) -> Error {
        network(format!("{url}: the answer was cut off: {}", printable(&cause.to_string(), 300)))
    }

    fn unreachable(&self, url: &Url, fault: &Fault) -> Trouble {
        let error = network(format!("cannot reach {url}: {}", printable(&fault.problem, 300)));
        match fault.of_certificate {
            true => error.with_hint("name the certificates to trust with SSL_CERT_FILE (PEM)").into(),
            false => {
                let hint =
                    "check the connection, the proxy and HF_ENDPOINT; a model in the cache is used with --offline";
                Trouble::Passing(error.with_hint(hint), None)
            }
        }
    }

    /// A server that may be well again soon.
    fn busy(&self, response: &Response, url: &Url) -> Error {
        match response.status {
            429 => network(format!("{url}: too many requests (429)"))
                .with_hint("wait a few minutes; with a token (HF_TOKEN) the Hub allows more requests"),
            status => network(format!("{url}: the server failed ({status})"))
                .with_hint("wait a while and run it again: what has come is kept"),
        }
    }

    /// A server that will not.
    fn refusal(&self, response: &Response, url: &Url, subject: Subject) -> Error {
        let Subject { id, file } = subject;
        let repo = id.repo;
        let page = self.endpoint.with_path(repo).map_or_else(|| repo.to_owned(), |url| url.to_string());
        let log_in = "set HF_TOKEN, or run `hf auth login`";
        let status = response.status;
        let said = response.header("x-error-message").map(|text| match &self.token {
            Some(token) => token.hidden_in(text),
            None => text.to_owned(),
        });
        let said = said.map_or_else(String::new, |text| format!(": {}", printable(&text, 300)));
        let told = format!("({status} from {url}{said})");
        let error = |kind, problem: String| Error::new(kind, format!("{problem} {told}"));
        let no_repo = || {
            let hint = format!("check the spelling at {page}; a private model needs a token: {log_in}");
            let problem = format!("{repo} does not exist on the Hub, or is private, and no folder here has that name");
            error(ErrorKind::Auth, problem).with_hint(hint)
        };
        let no_revision = || {
            error(ErrorKind::NoRevision, format!("{repo} has no revision {}", quoted(id.revision())))
                .with_hint(format!("its branches and tags are listed at {page}/tree/main"))
        };
        let no_file = |file: &str| error(ErrorKind::Incomplete, format!("{repo} has no file {}", quoted(file)));
        match (status, response.header("x-error-code").unwrap_or_default(), file) {
            (_, "GatedRepo", _) => {
                let whose =
                    if self.token.is_some() { "the owner of this token has no access" } else { "no token was given" };
                let hint = match self.token {
                    Some(_) => format!("ask for access at {page}; a fine-grained token must allow gated models"),
                    None => format!("accept its terms at {page}, then {log_in}"),
                };
                error(ErrorKind::Auth, format!("{repo} is gated, and {whose}")).with_hint(hint)
            }
            (_, "RevisionNotFound", _) => no_revision(),
            (_, "EntryNotFound", Some(file)) => no_file(file),
            (_, "RepoNotFound", _) => no_repo(),
            (401, ..) if self.token.is_some() => {
                error(ErrorKind::Auth, format!("the token was not accepted for {repo}"))
                    .with_hint("it may have expired: make a new one at https://huggingface.co/settings/tokens")
            }
            (401, ..) => error(ErrorKind::Auth, format!("{repo} does not exist, or may be read only with a token"))
                .with_hint(format!("check the spelling at {page}; then {log_in}")),
            (403, ..) => error(ErrorKind::Auth, format!("{repo} may not be read with this token, or from here"))
                .with_hint(format!("see {page} with the account that the token belongs to")),
            (404, _, Some(file)) => no_file(file),
            (404, ..) => no_repo(),
            _ => error(ErrorKind::Network, format!("{repo} cannot be fetched")),
        }
    }
}

pub(super) fn network(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Network, problem)
}

fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, problem).with_hint("no Hub says that: do not trust this server (HF_ENDPOINT)")
}

/// The pause that a server asks for: `Retry-After: 30`, or `RateLimit: "api";r=0;t=30` (the Hub's own spelling).
fn asked_to_wait(response: &Response) -> Option<Duration> {
    let limited = || {
        let limit = response.header("ratelimit").filter(|_| response.status == 429)?;
        limit.split(';').find_map(|part| part.trim().strip_prefix("t="))?.parse().ok()
    };
    response.number("retry-after").or_else(limited).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers with redirects to these places in turn, and keeps what it was asked.
    struct Redirecting {
        to: Vec<&'static str>,
        asked: Mutex<Vec<(String, bool)>>,
    }

    impl Http for Redirecting {
        fn send(&self, request: &Request) -> Result<Response, Fault> {
            let mut asked = self.asked.lock().unwrap();
            let next = self.to.get(asked.len());
            asked.push((request.url.to_string(), request.token.is_some()));
            let location = next.map(|to| ("location", *to));
            Ok(Response::of(if next.is_some() { 302 } else { 200 }, location.as_slice()))
        }
    }

    fn follow(to: &[&'static str]) -> (Result<(), Error>, Vec<(String, bool)>) {
        let http = Redirecting { to: to.to_vec(), asked: Mutex::default() };
        let endpoint = Url::parse("https://hub.example").unwrap();
        let client = Client {
            http: &http,
            endpoint: endpoint.clone(),
            token: Token::new("hf_secret"),
            patience: &Patience::default(),
            stopped: AtomicBool::new(false),
        };
        let subject = Subject { id: HubId::parse("org/name").unwrap(), file: None };
        let result = match client.follow(Method::Get, &endpoint, 0, subject) {
            Ok(_) => Ok(()),
            Err(Trouble::Lasting(error) | Trouble::Passing(error, _)) => Err(error),
        };
        (result, http.asked.into_inner().unwrap())
    }

    #[test]
    fn encryption_is_not_given_up() {
        for to in ["http://hub.example/x", "http://elsewhere/x"] {
            let (result, asked) = follow(&[to]);
            let error = result.unwrap_err();
            assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("not encrypted"), "{error}");
            assert_eq!(asked.len(), 1);
        }
    }

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        let hops = ["/moved", "https://cdn.example/a?sig=1", "https://hub.example:8443/b", "https://hub.example:443/c"];
        let (result, asked) = follow(&hops);
        result.unwrap();
        let with_token: Vec<bool> = asked.iter().map(|(_, token)| *token).collect();
        assert_eq!(with_token, [true, true, false, false, true], "{asked:?}");
    }

    #[test]
    fn the_pause_that_the_hub_asks_for() {
        let asked = |status, headers: &[(&'static str, &str)]| asked_to_wait(&Response::of(status, headers));
        assert_eq!(asked(503, &[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(asked(429, &[("ratelimit", "\"api\";r=0;t=55")]), Some(Duration::from_secs(55)));
        assert_eq!(asked(200, &[("ratelimit", "\"api\";r=9;t=55")]), None, "every answer has the header");
        assert_eq!(asked(429, &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), None);
    }
}
