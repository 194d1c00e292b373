//! Models from the Hub, by the command line: fetched, built, resumed, refused. What the Hub is asked in detail, and how
//! it may misbehave, is tested in `checkpoint/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::mock_hub::{COMMIT, Hub, Received, Reply, Repo, Server, TOKEN, sha256};
use crate::support::{Outcome, Run, build, contents, fixture, genai_build_with};

const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";
const WEIGHTS: &str = "model.safetensors";

/// A fixture as a repository.
fn tiny() -> Repo {
    contents(&fixture("llama-default"))
        .into_iter()
        .fold(Repo::new("tiny/llama"), |repo, (name, bytes)| repo.with(&name, bytes))
        .revision("v1", OTHER)
}

fn weights() -> Vec<u8> {
    tiny().files.remove(WEIGHTS).unwrap()
}

/// The files of a package without the record of its build, which says where the checkpoint is from.
fn model(package: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = contents(package);
    files.retain(|name, _| !["genai-build.json", "SHA256SUMS"].contains(&name.as_str()));
    files
}

/// A cache of its own, and an output.
struct Place {
    dir: TempDir,
    endpoint: String,
}

impl Place {
    fn of(hub: &Hub) -> Place {
        Place { dir: tempfile::tempdir().unwrap(), endpoint: hub.server.url() }
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("home")
    }

    fn output(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn arguments<'a>(&'a self, output: &'a Path, flags: &[&'a str]) -> Vec<&'a str> {
        let build = ["-p", "int4", "-e", "cpu", "-o", output.to_str().unwrap()];
        flags.iter().chain(&build).copied().collect()
    }

    /// Builds with these flags before the others. The token is in the environment, and never in what is printed.
    fn build(&self, flags: &[&str]) -> Run {
        let variables =
            [("HF_ENDPOINT", Path::new(&self.endpoint)), ("HF_HOME", &self.home()), ("HF_TOKEN", Path::new(TOKEN))];
        let run = genai_build_with(&variables, self.arguments(&self.output(), flags));
        assert!(!format!("{run:?}").contains(TOKEN), "{run:?}");
        run
    }
}

#[test]
fn a_model_is_fetched_and_built() -> Outcome {
    let hub = Hub::start(tiny());
    let place = Place::of(&hub);
    let expected = model(build(&fixture("llama-default"), "int4", "cpu", &[])?.path());
    place.build(&["-m", "tiny/llama"]).success()?;
    assert!(model(&place.output()) == expected, "a package from the Hub is that of the folder");
    assert!(place.home().join("hub/models--tiny--llama/snapshots").join(COMMIT).join(WEIGHTS).is_file());
    hub.store_saw_no_token();

    fs::remove_dir_all(place.output())?;
    hub.server.clear();
    place.build(&["-m", "tiny/llama", "--offline"]).success()?;
    assert!(model(&place.output()) == expected && hub.server.log().is_empty());

    for flags in [["-m", "tiny/llama", "--revision", "v1"].as_slice(), &["-m", "tiny/llama@v1"]] {
        hub.server.clear();
        place.build(flags).success()?;
        assert_eq!(hub.server.asked("GET", "/revision/v1").len(), 1);
        assert!(place.home().join("hub/models--tiny--llama/snapshots").join(OTHER).is_dir());
    }

    // Another cache, by the peer's flag.
    let cache = place.dir.path().join("cache_dir");
    place.build(&["-m", "tiny/llama", "--cache_dir", cache.to_str().unwrap()]).success()?;
    assert!(cache.join("models--tiny--llama/refs/main").is_file());
    Ok(())
}

#[test]
fn plan_and_inspect_fetch_too() -> Outcome {
    let hub = Hub::start(tiny());
    let place = Place::of(&hub);
    let variables = [("HF_ENDPOINT", Path::new(&place.endpoint)), ("HF_HOME", &place.home())];
    let text = genai_build_with(&variables, ["inspect", "tiny/llama", "--revision", "v1"]).success()?;
    assert!(text.contains("model.layers.0.mlp.down_proj.weight"), "{text}");
    hub.server.clear();
    let plan = ["plan", "-m", "tiny/llama@v1", "--offline", "-p", "int4", "-e", "cpu"];
    let text = genai_build_with(&variables, plan).success()?;
    assert!(text.contains("LlamaForCausalLM") && hub.server.log().is_empty(), "{text}");
    Ok(())
}

/// How the Hub answers what ends so, the exit code, and what is said.
type Illness = (&'static str, fn(&Reply) -> Reply, i32, &'static [&'static str]);

const ILLNESSES: [Illness; 8] = [
    ("/revision/main", |_| Reply::error(401, "GatedRepo"), 7, &["is gated", "/tiny/llama", "hint: ask for access"]),
    (
        "/revision/main",
        |_| Reply::error(404, "RepoNotFound"),
        7,
        &["does not exist on the Hub, or is private", "hint: "],
    ),
    ("/revision/main", |_| Reply::error(404, "RevisionNotFound"), 6, &["has no revision `main`", "hint: "]),
    ("/revision/main", |_| Reply::new(429, "").with("Retry-After", "7200"), 6, &["(429)", "come back in 7200 s"]),
    ("/config.json", |_| Reply::error(404, "EntryNotFound"), 5, &["has no file `config.json`"]),
    ("/config.json", |_| Reply::new(200, "{").with("ETag", "../../x"), 12, &["no name of a blob", "hint: "]),
    (WEIGHTS, |_| Reply::new(307, "").with("Location", "ftp://x"), 6, &["redirects to no address"]),
    (
        WEIGHTS,
        |right| Reply { status: 200, body: vec![7; right.body.len()], ..right.clone() },
        11,
        &["sha256", "hint: "],
    ),
];

#[test]
fn illnesses_have_their_exit_codes() -> Outcome {
    for (end, reply, code, says) in ILLNESSES {
        let stored = format!("/{}", sha256(&weights()));
        let hub = Hub::misbehaving(tiny(), move |request, right| {
            let store = code == 11 && request.path.starts_with(&stored);
            (store || code != 11 && request.path.ends_with(end)).then(|| reply(right))
        });
        let place = Place::of(&hub);
        place.build(&["-m", "tiny/llama"]).failed(code, says)?;
        assert!(!place.output().exists(), "{says:?}");
    }
    let hub = Hub::start(tiny());
    let mut place = Place::of(&hub);
    place.build(&["-m", "tiny/llama", "--offline"]).failed(6, &["not in the Hub cache", "hf download tiny/llama"])?;
    place.endpoint = "huggingface.co".to_owned();
    place.build(&["-m", "tiny/llama"]).failed(6, &["HF_ENDPOINT is `huggingface.co`"])?;
    assert!(hub.log().is_empty());
    Ok(())
}

#[test]
fn a_family_that_is_not_known_is_not_fetched() -> Outcome {
    let hub = Hub::start(tiny().with("config.json", r#"{"architectures": ["OracleForCausalLM"]}"#));
    Place::of(&hub).build(&["-m", "tiny/llama"]).failed(3, &["`OracleForCausalLM` is not supported"])?;
    assert!(hub.log().iter().all(|request| !request.path.ends_with(WEIGHTS)));
    Ok(())
}

#[test]
fn the_peers_option_for_the_token() -> Outcome {
    let hub = Hub::start(tiny());
    for (option, sent) in [("hf_token=hf_given", Some("Bearer hf_given")), ("hf_token=false", None)] {
        hub.server.clear();
        let run = Place::of(&hub).build(&["-m", "tiny/llama", "--extra_options", option]);
        assert!(!run.stderr.contains("hf_given") && run.stderr.contains("HF_TOKEN") == sent.is_some(), "{run:?}");
        run.success()?;
        assert!(hub.server.log().iter().all(|request| request.header("authorization") == sent));
    }
    Ok(())
}

#[test]
fn a_proxy_is_asked_without_the_token() -> Outcome {
    let mut place = Place::of(&Hub::start(tiny()));
    place.build(&["-m", "tiny/llama"]).success()?;
    // With the model in the cache, a Hub that cannot be reached is tried once.
    let proxy = Server::start(|_| Reply::new(502, ""));
    place.endpoint = "https://hub.invalid".to_owned();
    let variables = [
        ("HF_ENDPOINT", Path::new(&place.endpoint).to_owned()),
        ("HF_HOME", place.home()),
        ("HF_TOKEN", TOKEN.into()),
        ("HTTPS_PROXY", proxy.url().into()),
        ("ALL_PROXY", "".into()),
        ("NO_PROXY", "".into()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_path()));
    let run = genai_build_with(&variables, ["plan", "-m", "tiny/llama", "-p", "int4", "-e", "cpu"]);
    assert!(run.stderr.contains("hub.invalid") && run.stderr.contains(COMMIT), "{run:?}");
    run.success()?;
    let asked = proxy.log();
    assert!(asked.len() == 1 && asked[0].method == "CONNECT" && asked[0].path == "hub.invalid:443", "{asked:?}");
    assert!(!format!("{asked:?}").contains(TOKEN));
    Ok(())
}

/// A Hub that gives the weights in quarters, with a pause after each.
fn slow(pause: Duration) -> Hub {
    let stored = format!("/{}", sha256(&weights()));
    Hub::misbehaving(tiny(), move |request, right| {
        let slow = request.path.starts_with(&stored) && request.from() == 0;
        slow.then(|| Reply { drip: Some((right.body.len() / 4, pause)), ..right.clone() })
    })
}

#[test]
fn a_killed_download_is_gone_on_with() -> Outcome {
    // Longer than the test takes, and shorter than the client waits.
    let hub = slow(Duration::from_secs(25));
    let place = Place::of(&hub);
    let mut child = Command::new(env!("CARGO_BIN_EXE_genai-build"))
        .args(place.arguments(&place.output(), &["-m", "tiny/llama"]))
        .envs([("HF_ENDPOINT", place.endpoint.as_str()), ("HF_HOME", place.home().to_str().unwrap())])
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("TRANSFORMERS_OFFLINE")
        .env_remove("HF_HUB_CACHE")
        .stderr(Stdio::null())
        .spawn()?;
    let blobs = place.home().join("hub/models--tiny--llama/blobs");
    let partial = blobs.join(format!("{}.incomplete", sha256(&weights())));
    let left = || fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    let since = Instant::now();
    while left() == 0 {
        assert!(since.elapsed() < Duration::from_secs(60), "no byte came");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    let left = left() as usize;
    assert!(left < weights().len() && !place.output().exists());

    hub.store.clear();
    place.build(&["-m", "tiny/llama"]).success()?;
    let asked = hub.store.asked("GET", &sha256(&weights()));
    assert_eq!(asked.iter().map(Received::from).collect::<Vec<_>>(), [left], "only the rest is asked for");
    assert!(model(&place.output()) == model(build(&fixture("llama-default"), "int4", "cpu", &[])?.path()));
    Ok(())
}

#[test]
fn two_processes_fetch_once() -> Outcome {
    let hub = slow(Duration::from_millis(500));
    let place = Place::of(&hub);
    let outputs = [place.output(), place.dir.path().join("second")];
    std::thread::scope(|scope| {
        let runs = outputs.each_ref().map(|output| {
            let variables = [("HF_ENDPOINT", Path::new(&place.endpoint)), ("HF_HOME", &place.home())];
            let arguments = place.arguments(output, &["-m", "tiny/llama"]);
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            let variables = variables.map(|(name, value)| (name, value.to_owned()));
            scope.spawn(move || {
                let variables = variables.each_ref().map(|(name, value)| (*name, value.as_path()));
                genai_build_with(&variables, arguments).success().map(drop).map_err(|e| e.to_string())
            })
        });
        runs.into_iter().try_for_each(|run| run.join().unwrap())
    })?;
    assert!(contents(&outputs[0]) == contents(&outputs[1]));
    assert_eq!(hub.store.asked("GET", &sha256(&weights())).len(), 1, "the second waited for the first");
    Ok(())
}
