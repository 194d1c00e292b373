//! Downloads from a Hub that is ill or hostile (N02 to N09): what is retried, what is refused, what is left behind.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use genai_checkpoint::ErrorKind::{Auth, Checksum, Incomplete, Io, Network, Refused};

use crate::download::{Client, OTHER, files_below, single};
use crate::mock_hub::{COMMIT, Hub, Received, Reply, Repo, TOKEN, sha256};
use crate::support::{INDEX, SINGLE, f32_tensors, index};

const ELEMENTS: usize = 50_000;

fn weights() -> Vec<u8> {
    f32_tensors(&[("a", ELEMENTS)])
}

/// A Hub whose store answers for the weights as `meddle` says.
fn with_store(meddle: impl Fn(&Received, &Reply) -> Option<Reply> + Send + Sync + 'static) -> Hub {
    let name = format!("/{}", sha256(&weights()));
    Hub::misbehaving(single(ELEMENTS), move |request, right| {
        let stored = request.path.starts_with(&name);
        stored.then(|| meddle(request, right)).flatten()
    })
}

#[track_caller]
fn assert_whole(client: &Client) {
    let snapshot = client.fetch("org/name").unwrap();
    assert!(fs::read(snapshot.join(SINGLE)).unwrap() == weights(), "the bytes differ");
    client.is_tidy();
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    let served = AtomicUsize::new(0);
    let half = weights().len() / 4;
    let hub =
        with_store(move |_, right| (served.fetch_add(1, Ordering::Relaxed) < 3).then(|| right.clone().cut_after(half)));
    assert_whole(&Client::of(&hub));
    let asked: Vec<_> = hub.store.asked("GET", &sha256(&weights())).iter().map(Received::from).collect();
    assert_eq!(asked, [0, half, 2 * half, 3 * half], "only the rest is asked for");
    hub.store_saw_no_token();
}

#[test]
fn a_later_run_goes_on_where_the_last_one_gave_up() {
    let ill = std::sync::Arc::new(AtomicUsize::new(1));
    let now = ill.clone();
    let third = weights().len() / 3;
    let hub = with_store(move |request, right| match now.load(Ordering::Relaxed) {
        0 => None,
        _ if request.from() == 0 => Some(right.clone().cut_after(third)),
        _ => Some(Reply::new(500, "")),
    });
    let client = Client::of(&hub);
    let hint = "what has come is kept";
    client.fails("org/name", Network, &["the server failed (500)", "attempts", hint]);
    assert_eq!(fs::read(client.incomplete(&weights())).unwrap(), weights()[..third]);
    assert!(!client.repo().join("refs/main").exists(), "a branch leads to whole snapshots");
    assert!(!client.repo().join("snapshots").join(COMMIT).join(SINGLE).exists());

    ill.store(0, Ordering::Relaxed);
    hub.store.clear();
    assert_whole(&client);
    let asked = hub.store.asked("GET", &sha256(&weights()));
    assert_eq!(asked.iter().map(Received::from).collect::<Vec<_>>(), [third], "only the rest is asked for");
}

#[test]
fn a_server_that_ignores_ranges_is_never_appended() {
    let third = weights().len() / 3;
    let replies: [fn(&Reply) -> Reply; 3] = [
        |_| Reply::new(200, weights()),
        |_| {
            Reply::new(206, weights())
                .with("Content-Range", format!("bytes 0-{}/{}", weights().len() - 1, weights().len()))
        },
        |right| Reply::new(206, right.body.clone()).with("Content-Range", "bytes 7-9/10"),
    ];
    for reply in replies {
        let hub = with_store(move |request, right| match (request.from(), request.earlier) {
            (0, 0) => Some(right.clone().cut_after(third)),
            (0, _) => None,
            _ => Some(reply(right)),
        });
        assert_whole(&Client::of(&hub));
    }
}

#[test]
fn what_another_program_left_is_checked_before_it_counts() {
    let whole = weights();
    let leftovers = [vec![7; whole.len() / 2], [whole.clone(), vec![1]].concat(), whole.clone(), vec![7; whole.len()]];
    for left in leftovers {
        let hub = Hub::start(single(ELEMENTS));
        let client = Client::of(&hub);
        fs::create_dir_all(client.repo().join("blobs")).unwrap();
        fs::write(client.incomplete(&whole), &left).unwrap();
        assert_whole(&client);
        let fetched = hub.store.asked("GET", &sha256(&whole)).len();
        assert_eq!(
            fetched,
            if left == whole {
                0
            } else if left.len() < whole.len() {
                2
            } else {
                1
            }
        );
    }
    // A blob of the wrong length is no blob.
    let hub = Hub::start(single(ELEMENTS));
    let client = Client::of(&hub);
    fs::create_dir_all(client.repo().join("blobs")).unwrap();
    fs::write(client.blob(&whole), "short").unwrap();
    assert_whole(&client);
}

#[test]
fn wrong_bytes_are_not_kept() {
    type Altered = fn(&Reply) -> Reply;
    let cases: [(Altered, &str); 5] = [
        (|right| Reply::new(200, vec![7; right.body.len()]), "came with sha256"),
        (|right| Reply::new(200, &right.body[1..]), "expected 200"),
        (|right| Reply::new(200, [&right.body[..], b"more"].concat()), "expected 200"),
        (
            |right| Reply::new(200, [&right.body[..], b"more"].concat()).with("Transfer-Encoding", "chunked"),
            "is longer than",
        ),
        (|_| Reply::new(200, "<!doctype html>"), "expected 200"),
    ];
    for (reply, says) in cases {
        let hub = with_store(move |_, right| Some(reply(right)));
        let client = Client::of(&hub);
        client.fails("org/name", Checksum, &[says, "nothing of it was kept"]);
        assert_eq!(hub.store.asked("GET", &sha256(&weights())).len(), 1, "{says}: the same again is no better");
        assert!(!client.blob(&weights()).exists() && !client.repo().join("refs/main").exists());
        client.is_tidy();
    }
    // Shorter than told, without a length of its own: as if it had been cut.
    let hub = with_store(|request, right| {
        (request.from() == 0).then(|| Reply::new(200, &right.body[..9]).with("Transfer-Encoding", "chunked"))
    });
    assert_whole(&Client::of(&hub));
}

#[test]
fn files_without_a_hash_have_their_length_checked() {
    let hub = Hub::misbehaving(single(5), |request, right| {
        request.is("GET", "config.json").then(|| right.clone().cut_after(1))
    });
    let client = Client::of(&hub);
    client.fails("org/name", Network, &["config.json", "cut off", "after 5 attempts"]);
    client.is_tidy();
    let whole = |request: &Received| request.header("range").is_none();
    assert!(hub.server.asked("GET", "config.json").iter().all(whole), "what cannot be checked is not pieced together");

    let hub = Hub::misbehaving(single(5), |request, right| {
        request.is("GET", "config.json").then(|| Reply::new(200, [&right.body[..], b" "].concat()))
    });
    Client::of(&hub).fails("org/name", Checksum, &["config.json", "has 3 bytes to give, expected 2"]);

    let hub = Hub::misbehaving(single(5), |request, right| {
        let mut reply = right.clone();
        reply.headers.retain(|(name, _)| *name != "Content-Length");
        request.is("HEAD", "config.json").then(|| reply.with("Transfer-Encoding", "chunked"))
    });
    Client::of(&hub).fails("org/name", Network, &["config.json", "names no length"]);
}

/// What the Hub answers to every request, with which token, and what is said then.
#[test]
fn refusals_say_what_to_do() {
    type Case = (u16, &'static str, bool, genai_checkpoint::ErrorKind, &'static [&'static str]);
    let cases: [Case; 9] = [
        (
            401,
            "GatedRepo",
            false,
            Auth,
            &["org/name is gated, and no token was given", "accept its terms at", "HF_TOKEN"],
        ),
        (403, "GatedRepo", true, Auth, &["is gated, and the owner of this token has no access", "ask for access at"]),
        (401, "RepoNotFound", false, Auth, &["does not exist on the Hub, or is private", "hf auth login"]),
        (404, "RepoNotFound", true, Auth, &["does not exist on the Hub, or is private", "and no folder here"]),
        (401, "", true, Auth, &["the token was not accepted", "settings/tokens"]),
        (401, "", false, Auth, &["may be read only with a token", "check the spelling"]),
        (403, "", true, Auth, &["may not be read with this token"]),
        (404, "", true, Auth, &["does not exist on the Hub"]),
        (451, "", true, Network, &["org/name cannot be fetched", "451"]),
    ];
    for (status, code, with_token, kind, says) in cases {
        let hub = Hub::misbehaving(single(5), move |request, _| {
            let told = request.header("authorization").unwrap_or("nothing").to_owned();
            Some(Reply::error(status, code).with("X-Error-Message", format!("you sent {told}")))
        });
        let mut client = Client::of(&hub);
        client.options.environment.hf_token = client.options.environment.hf_token.filter(|_| with_token);
        let error = client.fails("org/name", kind, says);
        let line = format!("({status} from {}/api/models/org/name/revision/main", hub.server.url());
        assert!(error.to_string().contains(&line), "{error}");
        assert_eq!(hub.log().len(), 1, "a refusal is not asked again");
    }
    // A file that the listing has and the Hub has not; and a gate that guards the files alone.
    for (reply, kind, says) in [
        (Reply::error(404, "EntryNotFound"), Incomplete, "org/name has no file `model.safetensors`"),
        (Reply::error(403, "GatedRepo"), Auth, "is gated"),
    ] {
        let hub = Hub::misbehaving(single(5), move |request, _| request.path.ends_with(SINGLE).then(|| reply.clone()));
        Client::of(&hub).fails("org/name", kind, &[says]);
    }
}

#[test]
fn a_busy_server_is_given_time() {
    for (status, headers, least) in
        [(429, vec![("Retry-After", "1")], 1000), (429, vec![("RateLimit", "\"api\";r=0;t=1")], 1000), (503, vec![], 0)]
    {
        let replies = headers.clone();
        let hub = Hub::misbehaving(single(5), move |request, _| {
            let first = request.path.contains("/api/") && request.earlier == 0;
            first.then(|| replies.iter().fold(Reply::new(status, ""), |reply, (name, value)| reply.with(name, value)))
        });
        let since = Instant::now();
        Client::of(&hub).fetch("org/name").unwrap();
        assert!(since.elapsed() >= Duration::from_millis(least), "{status} {headers:?}");
        assert_eq!(hub.server.asked("GET", "/revision/main").len(), 2);
    }
}

#[test]
fn a_server_that_stays_busy_is_given_up() {
    let cases: [(u16, Option<&str>, usize, &[&str]); 3] = [
        (429, None, 5, &["too many requests (429)", "after 5 attempts", "wait a few minutes"]),
        (503, None, 5, &["the server failed (503)", "after 5 attempts"]),
        (429, Some("86400"), 1, &["too many requests", "come back in 86400 s"]),
    ];
    for (status, after, attempts, says) in cases {
        let hub = Hub::misbehaving(single(5), move |_, _| {
            let reply = Reply::new(status, "");
            Some(match after {
                Some(seconds) => reply.with("Retry-After", seconds),
                None => reply,
            })
        });
        Client::of(&hub).fails("org/name", Network, says);
        assert_eq!(hub.log().len(), attempts);
    }
    let hub = Hub::start(single(5));
    let mut client = Client::of(&hub);
    client.options.environment.hf_endpoint = Some("http://127.0.0.1:1".to_owned());
    client.fails(
        "org/name",
        Network,
        &["cannot reach http://127.0.0.1:1/api/models/org/name", "after 5 attempts", "HF_ENDPOINT"],
    );
    client.options.environment.hf_endpoint = Some("huggingface.co".to_owned());
    client.fails("org/name", Network, &["HF_ENDPOINT is `huggingface.co`", "https://"]);
}

#[test]
fn silence_and_dripping_end() {
    // Half of it, and then nothing: the rest is asked for anew.
    let hub = with_store(|request, right| {
        let mut reply = right.clone();
        reply.drip = Some((right.body.len() / 2, Duration::from_secs(30)));
        (request.from() == 0).then_some(reply)
    });
    let mut client = Client::of(&hub);
    client.options.patience.stall = Duration::from_secs(1);
    assert_whole(&client);
    assert!(hub.store.asked("GET", &sha256(&weights())).len() > 1);

    // A byte now and then is no progress, however long it goes on.
    let hub = with_store(|_, right| {
        let mut reply = right.clone();
        reply.drip = Some((1, Duration::from_millis(100)));
        Some(reply)
    });
    let mut client = Client::of(&hub);
    client.options.patience.attempts = 2;
    client.options.patience.stall = Duration::from_secs(2);
    let since = Instant::now();
    client.fails("org/name", Network, &["less than 1 KiB/s", "after 2 attempts"]);
    assert!(since.elapsed() < Duration::from_secs(60));
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let hub = Hub::misbehaving(single(5), |request, _| {
        request.path.contains("/api/").then(|| Reply::new(307, "").with("Location", request.path.clone() + "x"))
    });
    Client::of(&hub).fails("org/name", Network, &["10 redirects"]);

    // A model that was renamed: relative to the Hub, where the token may go.
    let hub = Hub::misbehaving(single(5), |request, _| {
        let old = request.path.contains("/old/name/");
        old.then(|| Reply::new(307, "").with("Location", request.path.replace("/old/name/", "/org/name/")))
    });
    let client = Client::of(&hub);
    client.fetch("old/name").unwrap();
    assert!(hub.server.log().iter().all(|request| request.header("authorization").is_some()));
    hub.store_saw_no_token();

    for nowhere in ["ftp://elsewhere/file", "http://", ""] {
        let hub = Hub::misbehaving(single(5), move |request, _| {
            request.is("GET", SINGLE).then(|| Reply::new(302, "").with("Location", nowhere))
        });
        Client::of(&hub).fails("org/name", Network, &[SINGLE, "redirects to no address"]);
    }
}

#[test]
fn hostile_answers_write_nothing_outside_the_cache() {
    let escape = "../../../../../escaped.json";
    let mut cases: Vec<(Hub, &str)> = Vec::new();
    for name in [escape, "/etc/passwd", "a/../../b", "..\\x", "C:\\x", "a\0b", "a//b", &"x".repeat(5000)] {
        cases.push((Hub::start(single(5).with(name, "{}")), "leads out of the repository"));
    }
    for etag in [escape, "\"../x\"", "a/b", "..", "a\\b", "", &"x".repeat(200)] {
        let etag = etag.to_owned();
        cases.push((
            Hub::misbehaving(single(5), move |request, _| {
                request.is("HEAD", "config.json").then(|| Reply::new(200, "{}").with("ETag", &etag))
            }),
            "no name of a blob",
        ));
    }
    for commit in ["../../../../x", "main", "0123", ""] {
        let listing = single(5).listing(commit);
        cases.push((
            Hub::misbehaving(single(5), move |request, _| request.path.contains("/api/").then(|| listing.clone())),
            "no hash",
        ));
    }
    for (hub, says) in &cases {
        let client = Client::of(hub);
        client.fails("org/name", Refused, &[says, "do not trust"]);
        assert!(client.strays().is_empty(), "{:?}", client.strays());
    }
}

#[test]
fn hostile_shards_are_refused() {
    for (shard, says) in [
        ("../../outside.safetensors", "not a plain file name"),
        ("/etc/passwd", "not a plain file name"),
        ("a\\b", "not a plain file name"),
        ("C:x", "not a plain file name"),
        ("NUL.safetensors", "not every system can store"),
        ("ONE.safetensors", "in upper and lower case"),
        (&"x".repeat(256), "not every system can store"),
    ] {
        let map = index(&[("a", "one.safetensors"), ("b", shard)]);
        let repo = Repo::new("org/name")
            .with("config.json", "{}")
            .with(INDEX, map)
            .with("one.safetensors", f32_tensors(&[("a", 1)]))
            .with("ONE.safetensors", f32_tensors(&[("b", 1)]));
        let hub = Hub::start(repo);
        let client = Client::of(&hub);
        client.fails("org/name", Refused, &[INDEX, says]);
        assert!(hub.store.log().is_empty() && client.strays().is_empty());
    }
}

#[test]
fn answers_that_are_no_answers() {
    for (body, says) in [
        ("<!doctype html><title>Log in</title>", "something else than a list of files"),
        (r#"{"sha": 5}"#, "something else"),
        ("", "something else"),
    ] {
        let hub = Hub::misbehaving(single(5), move |_, _| Some(Reply::new(200, body)));
        Client::of(&hub).fails("org/name", Network, &[says, "login page"]);
    }
    let hub = Hub::misbehaving(single(5), |request, right| {
        let mut reply = right.clone();
        reply.headers.retain(|(name, _)| *name != "X-Repo-Commit");
        request.is("HEAD", "config.json").then(|| reply.with("X-Repo-Commit", OTHER))
    });
    Client::of(&hub).fails("org/name", Network, &["answered for commit", OTHER, COMMIT]);
    let hub =
        Hub::misbehaving(single(5), |request, _| request.is("HEAD", "config.json").then(|| Reply::new(200, "{}")));
    Client::of(&hub).fails("org/name", Network, &["names no ETag"]);
}

#[test]
fn a_disk_too_small_is_told_before_the_download() {
    let hub = Hub::misbehaving(single(5), |request, right| {
        let mut reply = right.clone();
        reply.headers.retain(|(name, _)| *name != "X-Linked-Size");
        request.is("HEAD", SINGLE).then(|| reply.with("X-Linked-Size", 1_u64 << 60))
    });
    let client = Client::of(&hub);
    client.fails("org/name", Io, &["needs 1152921504606846976 bytes more", "--cache_dir"]);
    assert!(hub.server.asked("GET", SINGLE).is_empty());
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_download_is_not_written_through() {
    let hub = Hub::start(single(ELEMENTS));
    let client = Client::of(&hub);
    let victim = client.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(client.repo().join("blobs")).unwrap();
    std::os::unix::fs::symlink(&victim, client.incomplete(&weights())).unwrap();
    client.fails("org/name", Io, &["incomplete"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn two_downloads_of_one_model_share_the_work() {
    let hub = with_store(|_, right| {
        let mut reply = right.clone();
        reply.drip = Some((right.body.len() / 10, Duration::from_millis(30)));
        Some(reply)
    });
    let client = Client::of(&hub);
    let found: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| client.fetch("org/name").unwrap())).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(found.iter().all(|snapshot| fs::read(snapshot.join(SINGLE)).unwrap() == weights()));
    assert_eq!(hub.store.asked("GET", &sha256(&weights())).len(), 1, "the others waited for the first");
    client.is_tidy();
    let locks = files_below(&client.cache().join(".locks/models--org--name"));
    assert!(locks.iter().any(|lock| lock.ends_with(format!("{}.lock", sha256(&weights())))), "{locks:?}");
    assert!(!format!("{locks:?}").contains(TOKEN));
}
