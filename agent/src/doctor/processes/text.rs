//! The report on processes as a person reads it: one entry for all processes that have the same, what cannot be seen with its reason.
//!
//! Input: a [`Processes`]. Output: text of at most 100 columns, without colours.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{Library, Process, Processes};
use crate::doctor::text::{INDENT, LABEL, wrapped};

/// Ids that are listed; the others are counted.
const MAX_IDS: usize = 6;

/// Processes that have the same.
struct Entry<'a> {
    mark: &'static str,
    program: String,
    text: String,
    of: Option<&'a Library>,
    pids: Vec<u32>,
}

pub(super) fn write(report: &Processes, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "undertrace {} doctor --processes", report.version)?;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for process in &report.processes {
        let unknown = process.error.clone().into_iter().chain(unopened(process));
        let unknown = unknown.map(|text| Entry {
            mark: "unknown",
            program: program(process),
            text,
            of: None,
            pids: Vec::new(),
        });
        let libraries = process
            .libraries
            .iter()
            .map(|library| entry(process, library));
        for mut entry in unknown.chain(libraries) {
            let same = |other: &&mut Entry<'_>| {
                (other.mark, &other.program, &other.text, other.of)
                    == (entry.mark, &entry.program, &entry.text, entry.of)
            };
            match entries.iter_mut().find(same) {
                Some(other) => other.pids.push(process.pid),
                None => {
                    entry.pids.push(process.pid);
                    entries.push(entry);
                }
            }
        }
    }
    let all = report.processes.len();
    let with = |process: &&Process| !process.libraries.is_empty();
    let count = report.processes.iter().filter(with).count();
    writeln!(
        out,
        "\nTLS in {count} of {all} {} ({} {} looked into in {} ms)",
        plural(all, "process", "processes"),
        report.files,
        if report.files == 1 { "file" } else { "files" },
        report.milliseconds
    )?;
    // What can be seen stands before what cannot, each by its program.
    let rank = |mark: &str| {
        ["found", "HIDDEN", "unknown"]
            .iter()
            .position(|own| *own == mark)
    };
    entries.sort_by(|a, b| (rank(a.mark), &a.program).cmp(&(rank(b.mark), &b.program)));
    for entry in &entries {
        write_entry(entry, out)?;
    }
    let hidden = report.processes.iter().filter(|process| {
        let mut libraries = process.libraries.iter();
        libraries.any(|library| library.reason.is_some())
    });
    let hidden = hidden.count();
    if hidden > 0 {
        let processes = plural(hidden, "process has", "processes have");
        writeln!(
            out,
            "\n{hidden} {processes} TLS that cannot be seen inside."
        )?;
    }
    writeln!(
        out,
        "\nThis is what could be seen: `run` does not read inside of TLS yet."
    )
}

fn entry<'a>(process: &Process, library: &'a Library) -> Entry<'a> {
    let mut text = library.library.to_owned();
    if let Some(version) = &library.version {
        text = format!("{text} {version}");
    }
    if library.built_in {
        text += ", in the program itself";
    } else {
        text = format!("{text}, in {}", printable(&library.path));
    }
    if let Some(reason) = &library.reason {
        text = format!("{text}: {reason}");
    }
    Entry {
        mark: if library.reason.is_none() {
            "found"
        } else {
            "HIDDEN"
        },
        program: program(process),
        text,
        of: Some(library),
        pids: Vec::new(),
    }
}

fn write_entry(entry: &Entry<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut lines = wrapped(&entry.text).into_iter();
    let first = lines.next().unwrap_or_default();
    writeln!(out, "  {:<8} {:<LABEL$} {first}", entry.mark, entry.program)?;
    for line in lines {
        writeln!(out, "{:INDENT$}{line}", "")?;
    }
    let listed = entry.pids.iter().take(MAX_IDS).map(u32::to_string);
    let mut pids = listed.collect::<Vec<_>>().join(", ");
    if let Some(more) = entry
        .pids
        .len()
        .checked_sub(MAX_IDS)
        .filter(|more| *more > 0)
    {
        pids = format!("{pids} and {more} more");
    }
    let processes = plural(entry.pids.len(), "process", "processes");
    writeln!(out, "{:INDENT$}{processes} {pids}", "")
}

/// What is said of files that could not be opened.
fn unopened(process: &Process) -> Option<String> {
    let first = printable(process.unopened.first()?);
    Some(match process.unopened.len() {
        1 => format!("a mapped file cannot be opened: {first}"),
        many => format!("{many} mapped files cannot be opened, {first} among them"),
    })
}

const fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// The name of a process's program, cut to the column. Processes that may not be looked at are one entry.
fn program(process: &Process) -> String {
    let path = process.program.as_deref().and_then(Path::file_name);
    let name = path.map_or_else(
        || "of other users".to_owned(),
        |name| printable(Path::new(name)),
    );
    name.chars().map(shown).take(LABEL).collect()
}

/// A path without what a terminal would take for a command.
fn printable(path: &Path) -> String {
    path.to_string_lossy().chars().map(shown).collect()
}

fn shown(character: char) -> char {
    if character.is_control() {
        '?'
    } else {
        character
    }
}
