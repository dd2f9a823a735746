//! The fuzz workspace is built by nobody here, so its files are read: each target there hands its bytes to the function of its name.

use std::{fs, path::PathBuf};

use super::super::TARGETS;

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn read(name: &str) -> String {
    let path = workspace().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

#[test]
fn each_function_has_a_target_that_calls_it() {
    let files = fs::read_dir(workspace().join("targets")).expect("the folder is there");
    let mut files: Vec<String> = files
        .map(|file| file.expect("an entry").file_name().into_string())
        .map(|name| name.expect("a name of letters"))
        .collect();
    files.sort_unstable();
    let expected: Vec<String> = names().iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(files, expected);

    for name in names() {
        let text = read(&format!("targets/{name}.rs"));
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("//") && !line.is_empty())
            .collect();
        let call = format!("    undertrace::fuzzing::{name}(bytes);");
        let whole = [
            "#![no_main]",
            "libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {",
            &call,
            "});",
        ];
        assert_eq!(code, whole, "targets/{name}.rs");
    }
}

#[test]
fn each_target_is_a_program_of_the_workspace() {
    let manifest = read("Cargo.toml");
    let mut programs: Vec<(&str, &str)> = manifest
        .split("\n[[bin]]\n")
        .skip(1)
        .map(|program| {
            let value = |key: &str| {
                let line = program.lines().find_map(|line| line.strip_prefix(key));
                line.map_or("", |value| value.trim_matches('"'))
            };
            (value("name = "), value("path = "))
        })
        .collect();
    programs.sort_unstable();
    let paths: Vec<String> = names()
        .iter()
        .map(|name| format!("targets/{name}.rs"))
        .collect();
    let expected: Vec<(&str, &str)> = names()
        .into_iter()
        .zip(paths.iter().map(String::as_str))
        .collect();
    assert_eq!(programs, expected);
    // The functions are not there without it.
    assert!(manifest.contains("agent = { path = \"../agent\", features = [\"testing\"] }"));
}
