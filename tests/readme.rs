//! The README's tables are those that the command prints.

use std::{fs, path::Path, process::Command};

#[test]
fn tables_are_those_in_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut readme = fs::read_to_string(&path).unwrap();
    let before = readme.clone();
    for table in ["families", "targets"] {
        let output = Command::new(env!("CARGO_BIN_EXE_genai-build")).arg(table).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
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
