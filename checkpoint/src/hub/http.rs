//! HTTP as this crate needs it, a trait of one call, and `ureq` behind it. Nothing else here knows that crate.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::environment::Token;
use crate::error::{Error, Result};
use crate::source_file::SourceFile;

/// One exchange with a server. Redirects are answers like any other.
pub(super) trait Http: Sync {
    fn send(&self, request: &Request) -> Result<Response, Fault>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
}

pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) token: Option<&'a Token>,
    /// The first byte wanted, if not 0.
    pub(super) from: u64,
}

pub(super) struct Response {
    pub(super) status: u16,
    headers: ureq::http::HeaderMap,
    pub(super) body: Box<dyn Read + Send>,
}

/// Why there is no answer: no connection, no name, a timeout.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) problem: String,
    /// The server is not who it says, as far as we can tell: no better the next time.
    pub(super) of_certificate: bool,
}

impl Response {
    /// A header's text; `None` where it is absent or not ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// An answer without a body, for tests.
    #[cfg(test)]
    pub(super) fn of(status: u16, headers: &[(&'static str, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| {
            (ureq::http::HeaderName::from_static(name), ureq::http::HeaderValue::from_str(value).unwrap())
        });
        Response { status, headers: headers.collect(), body: Box::new(std::io::empty()) }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

/// An `http` or `https` address. Displays without its query, which may be a signature, and without a user's name.
#[derive(Debug, Clone)]
pub(super) struct Url(Uri);

impl Url {
    pub(super) fn parse(text: &str) -> Option<Url> {
        let uri: Uri = text.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(Url(uri))
    }

    /// Where a redirect from here leads.
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        let (scheme, authority) = (self.0.scheme_str()?, self.0.authority()?.as_str());
        if location.starts_with("//") {
            Url::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Url::parse(&format!("{scheme}://{authority}{location}"))
        } else if location.contains("://") {
            Url::parse(location)
        } else {
            let (folder, _) = self.0.path().rsplit_once('/')?;
            Url::parse(&format!("{scheme}://{authority}{folder}/{location}"))
        }
    }

    /// The address of `path` below this one.
    pub(super) fn with_path(&self, path: &str) -> Option<Url> {
        let (scheme, authority) = (self.0.scheme_str()?, self.0.authority()?.as_str());
        Url::parse(&format!("{scheme}://{authority}{}/{path}", self.0.path().trim_end_matches('/')))
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Whether both are answered by the same server: the only one that may see the token.
    pub(super) fn same_origin(&self, other: &Url) -> bool {
        let origin = |url: &Url| {
            let host = url.0.host().map(str::to_ascii_lowercase);
            (url.is_https(), host, url.0.port_u16().unwrap_or(if url.is_https() { 443 } else { 80 }))
        };
        origin(self) == origin(other)
    }

    fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme_str().unwrap_or_default(), self.0.host().unwrap_or_default())?;
        if let Some(port) = self.0.port_u16() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

/// `text` as one segment of a path.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The real thing: TLS by rustls with Mozilla's roots or the user's, proxies from the environment.
pub(super) struct Ureq(ureq::Agent);

impl Ureq {
    /// A client for the Hub at `endpoint`; `stall` is how long a connection may be silent.
    pub(super) fn new(endpoint: &Url, stall: Duration, certificates: Option<&Path>) -> Result<Ureq> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("genai-build/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(stall))
            .timeout_connect(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall))
            .timeout_recv_response(Some(stall.saturating_mul(2)));
        if endpoint.is_loopback() {
            // A proxy elsewhere does not reach this machine's own servers.
            config = config.proxy(None);
        }
        if let Some(file) = certificates.filter(|_| endpoint.is_https()) {
            let roots = RootCerts::Specific(Arc::new(read_certificates(file)?));
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Ureq(config.build().into()))
    }
}

impl Http for Ureq {
    fn send(&self, request: &Request) -> Result<Response, Fault> {
        let mut call = match request.method {
            Method::Get => self.0.get(&request.url.0),
            Method::Head => self.0.head(&request.url.0),
        };
        // Sizes and ranges are those of the file itself only without compression.
        call = call.header("Accept-Encoding", "identity");
        if let Some(token) = request.token {
            call = call.header("Authorization", format!("Bearer {}", token.secret()));
        }
        if request.from > 0 {
            call = call.header("Range", format!("bytes={}-", request.from));
        }
        let (head, body) = call.call().map_err(fault)?.into_parts();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body: Box::new(body.into_reader()) })
    }
}

fn fault(e: ureq::Error) -> Fault {
    let problem = e.to_string();
    // rustls words all of these so; its errors come wrapped in those of IO.
    Fault { of_certificate: problem.contains("invalid peer certificate"), problem }
}

fn read_certificates(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let resolved = file.canonicalize().map_err(|e| Error::io(file, "read the certificates", &e))?;
    let pem = SourceFile::open(file, &resolved)?.read_all(16 << 20)?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(e) => return Err(Error::malformed(file, format!("is not PEM: {e}"))),
        }
    }
    if certificates.is_empty() {
        return Err(Error::malformed(file, "holds no certificate").with_hint("SSL_CERT_FILE names a PEM file of roots"));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_relative_to_where_they_come_from() {
        let from = Url::parse("https://user:pass@hub.example:8443/org/name/resolve/main/config.json?x=secret").unwrap();
        assert_eq!(from.to_string(), "https://hub.example:8443/org/name/resolve/main/config.json");
        let joined = |location: &str| from.join(location).map(|url| url.to_string());
        assert_eq!(joined("/api/x?y=1").unwrap(), "https://hub.example:8443/api/x");
        assert_eq!(joined("//cdn.example/b").unwrap(), "https://cdn.example/b");
        assert_eq!(joined("http://cdn.example/b").unwrap(), "http://cdn.example/b");
        let mirror = Url::parse("https://mirror.example/hf/").unwrap();
        assert_eq!(mirror.with_path("api/models").unwrap().to_string(), "https://mirror.example/hf/api/models");
        assert_eq!(joined("other").unwrap(), "https://hub.example:8443/org/name/resolve/main/other");
        for bad in ["ftp://x/y", "http://", "/a b", "file:///etc/passwd"] {
            assert!(joined(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(url("https://Hub.example/a").same_origin(&url("https://hub.example:443/b")));
        for other in ["http://hub.example/a", "https://hub.example:444/a", "https://hub.example.evil/a"] {
            assert!(!url("https://hub.example/a").same_origin(&url(other)), "{other}");
        }
    }

    #[test]
    fn a_segment_is_encoded() {
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b?#ü"), "a%20b%3F%23%C3%BC");
    }
}
