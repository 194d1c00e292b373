//! The README's tables and the page of options are those that the command prints.

use std::{fs, path::Path, process::Command};

#[test]
fn tables_are_those_in_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut readme = fs::read_to_string(&path).unwrap();
    let before = readme.clone();
    for table in ["families", "targets"] {
        let printed = printed(table);
        let start = format!("<!-- genai-build {table} -->\n");
        let from = readme.find(&start).expect("the README marks where the table stands") + start.len();
        let to = from + readme[from..].find("<!-- end -->").expect("the README marks where the table ends");
        readme.replace_range(from..to, &printed);
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &readme).unwrap();
    } else {
        assert!(before == readme, "the README's tables are old: UPDATE_EXPECT=1 writes them");
    }
}

#[test]
fn the_page_of_options_is_that_in_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let printed = printed("options");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &printed).unwrap();
    } else {
        assert!(fs::read_to_string(&path).unwrap() == printed, "docs/options.md is old: UPDATE_EXPECT=1 writes it");
    }
}

#[test]
fn every_option_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/options.md")).unwrap();
    // What no model has is refused row by row in the unit tests of the options.
    let (page, _) = page.split_once("## Parts that no supported model has").unwrap();
    let files = fs::read_dir(root.join("tests")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let tests: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let keys: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(keys.len() > 30);
    let unnamed: Vec<_> = keys.iter().filter(|key| !tests.contains(*key)).collect();
    assert!(unnamed.is_empty(), "no test names {unnamed:?}");
}

fn printed(verb: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_genai-build")).arg(verb).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
