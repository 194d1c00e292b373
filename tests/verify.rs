//! The record of a build, and that `verify` sees every change of a package.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Altered, Outcome, Run, build, build_arguments, contents, fixture, for_each, genai_build};

const CHECKSUM: i32 = 11;

fn verify(package: &Path, flags: &[&str]) -> Run {
    genai_build(["verify", package.to_str().unwrap()].iter().chain(flags))
}

fn manifest(package: &Path) -> Outcome<Value> {
    Ok(serde_json::from_slice(&fs::read(package.join("genai-build.json"))?)?)
}

#[test]
fn a_flipped_bit_is_seen_in_any_file() -> Outcome {
    let package = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    verify(package.path(), &["--strict"]).success()?;
    let files = contents(package.path());
    assert!(files.len() >= 7, "{:?}", files.keys());
    let mut flips = Vec::new();
    for (name, bytes) in &files {
        let step = bytes.len().div_ceil(12);
        let positions = (0..bytes.len()).step_by(step).chain([bytes.len() - 1]);
        flips.extend(positions.map(|at| (name.clone(), at, 1u8 << (at % 8))));
    }
    // The digits of SHA256SUMS, each in both cases.
    flips.extend((0..files["SHA256SUMS"].len()).map(|at| ("SHA256SUMS".to_owned(), at, 0x20)));
    for_each(
        &flips,
        |(name, at, mask)| format!("{name} byte {at} mask {mask:#x}"),
        |(name, at, mask)| {
            let damaged = tempfile::tempdir()?;
            for (file, bytes) in &files {
                let mut bytes = bytes.clone();
                if file == name {
                    bytes[*at] ^= mask;
                }
                fs::write(damaged.path().join(file), bytes)?;
            }
            // Which of the two is wrong where they disagree on the manifest, no one can say.
            let of_manifest = name == "SHA256SUMS" && !String::from_utf8_lossy(&files[name][..*at]).contains("json");
            let named = if of_manifest { "genai-build.json" } else { name };
            let run = verify(damaged.path(), &[]);
            run.failed(CHECKSUM, &["not as it was written", "hint: "])?;
            let right = run.stderr.contains(name) || run.stderr.contains(named);
            if right { Ok(()) } else { Err(run.stderr.into()) }
        },
    );
    Ok(())
}

#[test]
fn what_is_missing_truncated_or_more_is_named() -> Outcome {
    let package = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    let files = contents(package.path());
    for name in files.keys() {
        fs::remove_file(package.path().join(name))?;
        verify(package.path(), &[]).failed(CHECKSUM, &[&format!("{name}: is missing")])?;
        fs::write(package.path().join(name), &files[name][..files[name].len() - 1])?;
        verify(package.path(), &[]).failed(CHECKSUM, &[name])?;
        fs::remove_file(package.path().join(name))?;
        fs::create_dir(package.path().join(name))?;
        let run = verify(package.path(), &[]);
        assert!([4, CHECKSUM].contains(&run.code) && run.stderr.contains(name), "{run:?}");
        fs::remove_dir(package.path().join(name))?;
        fs::write(package.path().join(name), &files[name])?;
    }
    fs::write(package.path().join("notes.txt"), "mine")?;
    let run = verify(package.path(), &[]);
    assert!(run.code == 0 && run.stderr.contains("not of the package: notes.txt"), "{run:?}");
    verify(package.path(), &["--strict"]).failed(CHECKSUM, &["notes.txt: is not of the package"])?;
    let json: Value = serde_json::from_str(&verify(package.path(), &["--json"]).success()?)?;
    assert_eq!(json["extra"], json!(["notes.txt"]));
    let empty = tempfile::tempdir()?;
    verify(empty.path(), &[]).failed(4, &["holds neither SHA256SUMS nor genai-build.json"])
}

#[test]
fn the_manifest_tells_what_went_in_and_out() -> Outcome {
    let terms = [
        ("LICENSE", "terms"),
        ("NOTICE.txt", "notice"),
        ("README.md", "---\nlicense: mit\n---\n"),
        ("USE_POLICY.md", "policy"),
    ];
    let mut checkpoint = Altered::copy_of("llama-default");
    for (name, text) in terms {
        checkpoint = checkpoint.with(name, text);
    }
    let package = tempfile::tempdir()?;
    let arguments = build_arguments(checkpoint.path(), "int4", "cpu", package.path());
    genai_build(arguments.iter().map(String::as_str).chain(["--hash-inputs"])).success()?;
    let files = contents(package.path());
    for (name, text) in terms {
        assert_eq!(files.get(name).map(Vec::as_slice), Some(text.as_bytes()), "{name}");
    }
    let manifest = manifest(package.path())?;
    assert_eq!(manifest["options"]["precision"], "int4");
    let listed: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    let there: Vec<&String> =
        files.keys().filter(|name| !["genai-build.json", "SHA256SUMS"].contains(&name.as_str())).collect();
    assert_eq!(listed, there);
    let inputs = manifest["inputs"].as_array().unwrap();
    assert!(
        inputs.len() >= 7 && inputs.iter().all(|input| input["sha256"].as_str().is_some_and(|hash| hash.len() == 64)),
        "{inputs:?}"
    );
    let text = String::from_utf8(files["genai-build.json"].clone())?;
    for place in [checkpoint.path(), package.path()] {
        assert!(!text.contains(place.to_str().unwrap()), "the manifest names {}", place.display());
    }
    // Every tensor is told once.
    let weights = manifest["weights"].as_array().unwrap();
    let told: usize = weights.iter().map(|weight| weight["tensors"].as_array().unwrap().len()).sum();
    assert_eq!(json!(told), manifest["accounting"]["tensors"]);

    // Without the option weights are not read a second time, and the package is the same but for the record.
    let unhashed = build(checkpoint.path(), "int4", "cpu", &[])?;
    let inputs = self::manifest(unhashed.path())?["inputs"].clone();
    let weights = inputs.as_array().unwrap().iter().find(|input| input["name"] == "model.safetensors").unwrap();
    assert_eq!(weights["sha256"], Value::Null);
    assert!(contents(unhashed.path())["model.onnx.data"] == files["model.onnx.data"]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_hub_snapshot_tells_its_commit_and_hashes() -> Outcome {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir()?;
    let repo = root.path().join("models--org--name");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repo.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot)?;
    fs::create_dir_all(repo.join("blobs"))?;
    let weights = fs::read(fixture("llama-default").join("model.safetensors"))?;
    let sums = {
        let package = tempfile::tempdir()?;
        let arguments = build_arguments(&fixture("llama-default"), "int4", "cpu", package.path());
        genai_build(arguments.iter().map(String::as_str).chain(["--hash-inputs"])).success()?;
        manifest(package.path())?
    };
    let input = |manifest: &Value| {
        let inputs = manifest["inputs"].as_array().unwrap().clone();
        inputs.into_iter().find(|input| input["name"] == "model.safetensors").unwrap()["sha256"]
            .as_str()
            .map(str::to_owned)
    };
    let right = input(&sums).unwrap();
    let link = |hash: &str| -> Outcome {
        fs::write(repo.join("blobs").join(hash), &weights)?;
        let _ = fs::remove_file(snapshot.join("model.safetensors"));
        Ok(symlink(format!("../../blobs/{hash}"), snapshot.join("model.safetensors"))?)
    };
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        if let Ok(bytes) = fs::read(fixture("llama-default").join(name)) {
            fs::write(snapshot.join(name), bytes)?;
        }
    }
    link(&right)?;
    let package = build(&snapshot, "int4", "cpu", &[])?;
    let told = manifest(package.path())?;
    assert_eq!(told["source"], json!({"repository": "org/name", "commit": commit}));
    assert_eq!(input(&told), Some(right.clone()));

    // A blob that is not what its name says.
    let wrong = right.replace(|c: char| c.is_ascii_digit(), "0");
    link(&wrong)?;
    let place = tempfile::tempdir()?;
    let arguments = build_arguments(&snapshot, "int4", "cpu", &place.path().join("package"));
    genai_build(arguments.iter().map(String::as_str).chain(["--hash-inputs"]))
        .failed(CHECKSUM, &["model.safetensors", &right, &wrong, "hint: "])?;
    assert!(contents(place.path()).is_empty());
    Ok(())
}

#[test]
fn unused_tensors_are_left_out_only_where_allowed_and_that_is_recorded() -> Outcome {
    let more = || {
        Altered::copy_of("llama-default").tensors(|tensors| {
            for name in ["model.extra.0.weight", "model.extra.1.weight", "vision.weight"] {
                let bytes = vec![0; 8];
                let stored = crate::support::Stored { dtype: safetensors::Dtype::BF16, shape: vec![4], data: bytes };
                tensors.insert(name.to_owned(), stored);
            }
        })
    };
    let checkpoint = more();
    let place = tempfile::tempdir()?;
    let output = place.path().join("package");
    let run = |allowed: &[&str]| {
        let arguments = build_arguments(checkpoint.path(), "fp32", "cpu", &output);
        let allowed = allowed.iter().flat_map(|pattern| ["--allow-unused", *pattern]);
        genai_build(arguments.iter().map(String::as_str).chain(allowed))
    };
    run(&[]).failed(5, &["model.extra.0.weight", "model.extra.1.weight", "vision.weight"])?;
    run(&["model.extra.*"]).failed(5, &["\"vision.weight\" is used by no part"])?;
    run(&["*", "nothing.*"]).failed(5, &["--allow-unused \"nothing.*\" matches no tensor"])?;
    // What the model needs is used all the same.
    run(&["vision.weight", "model.extra.*"]).success()?;
    let recorded = manifest(&output)?;
    assert_eq!(recorded["options"]["allow_unused"], json!(["vision.weight", "model.extra.*"]));
    let expected = json!({"model.extra.0.weight": "model.extra.*", "model.extra.1.weight": "model.extra.*", "vision.weight": "vision.weight"});
    assert_eq!(recorded["accounting"]["allowed_unused"], expected);
    let plain = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    assert!(contents(&output)["model.onnx.data"] == contents(plain.path())["model.onnx.data"]);
    Ok(())
}
