use std::{fs::File, path::PathBuf, process::Command};

use super::*;
use crate::image::{Machine, testing::*};

pub(crate) const READ: &str = "crypto/tls.(*Conn).Read";
pub(crate) const WRITE: &str = "crypto/tls.(*Conn).Write";

/// cmp rsp, [r14+16]; ret
const SMALL: &[u8] = b"\x49\x3b\x66\x10\xc3";

/// What a linker of Go's makes of functions: their code, and the table of them.
pub(crate) struct Program<'a> {
    pub(crate) functions: &'a [(&'a str, &'a [u8])],
    pub(crate) magic: u32,
    /// What the header says of the start of the code.
    pub(crate) text_start: u64,
    /// Code in front of Go's.
    pub(crate) before: &'a [u8],
}

impl Default for Program<'_> {
    fn default() -> Self {
        Self {
            functions: &[("runtime.text", b"\xcc\xcc"), (READ, SMALL), (WRITE, SMALL)],
            magic: 0xffff_fff1,
            text_start: BASE + FIRST,
            before: b"",
        }
    }
}

impl Program<'_> {
    pub(crate) fn text(&self) -> Vec<u8> {
        let code = self.functions.iter().flat_map(|(_, code)| *code);
        self.before.iter().chain(code).copied().collect()
    }

    pub(crate) fn table(&self) -> Vec<u8> {
        let (mut names, mut pairs, mut records) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0_u32;
        let records_at = self.functions.len() as u32 * 8 + 4;
        for (name, code) in self.functions {
            pairs.extend([start, records_at + records.len() as u32]);
            records.extend(
                [start, names.len() as u32, 0, 0]
                    .map(u32::to_le_bytes)
                    .concat(),
            );
            names.extend(name.bytes().chain([0]));
            start += code.len() as u32;
        }
        pairs.push(start);
        let mut table = self.magic.to_le_bytes().to_vec();
        table.extend([0, 0, 1, 8]);
        let names_end = HEADER + names.len() as u64;
        let numbers = [self.functions.len() as u64, 1, self.text_start, HEADER];
        let parts = [names_end, names_end, names_end, names_end];
        table.extend(
            numbers
                .iter()
                .chain(&parts)
                .flat_map(|number| number.to_le_bytes()),
        );
        table.extend(names);
        table.extend(pairs.iter().flat_map(|number| number.to_le_bytes()));
        table.extend(records);
        table
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        image(&[
            (".text", &self.text()),
            (".gopclntab", &self.table()),
            (".go.buildinfo", &buildinfo("go1.24.3")),
        ])
    }
}

const HEADER: u64 = 72;

pub(crate) fn buildinfo(version: &str) -> Vec<u8> {
    let mut bytes = b"\xff Go buildinf:\x08\x02".to_vec();
    bytes.resize(32, 0);
    bytes.push(version.len() as u8);
    bytes.extend(version.bytes());
    bytes.resize(160, 0);
    bytes
}

fn find(bytes: &[u8]) -> Result<Vec<Option<Function>>, GoError> {
    functions(
        &Image::read(bytes).expect("an image"),
        &[READ, WRITE, "main.main"],
    )
}

fn at(distances: [u64; 2]) -> Result<Vec<Option<Function>>, GoError> {
    let [read, write] = distances.map(|distance| {
        Some(Function {
            offset: FIRST + distance,
            code: SMALL.to_vec(),
        })
    });
    Ok(vec![read, write, None])
}

#[test]
fn finds_functions_in_the_table_of_each_version() {
    for magic in [0xffff_fff0, 0xffff_fff1] {
        let program = Program {
            magic,
            ..Program::default()
        };
        assert_eq!(find(&program.image()), at([2, 7]), "{magic:x}");
    }
    for magic in [0xffff_fffa, 0xffff_fffb, 0xffff_ffef] {
        let program = Program {
            magic,
            ..Program::default()
        };
        assert_eq!(find(&program.image()), Err(GoError::Layout), "{magic:x}");
    }
}

#[test]
fn finds_the_table_where_a_foreign_linker_has_put_it() {
    let program = Program::default();
    let data = [
        b"other data at first".as_slice(),
        &0xffff_fff1_u32.to_le_bytes(),
        &program.table(),
    ]
    .concat();
    let mut bytes = image(&[(".text", &program.text()), (".data.rel.ro", &data)]);
    assert_eq!(find(&bytes), at([2, 7]));
    // Nor is it needed that anybody says what the parts of the file are.
    bytes[40..48].fill(0);
    assert_eq!(find(&bytes), at([2, 7]));
    assert_eq!(find(&image(&[(".text", b"\xc3")])), Err(GoError::Layout));
}

#[test]
fn finds_the_start_of_the_code_that_the_table_does_not_tell() {
    let zero = Program {
        text_start: 0,
        ..Program::default()
    };
    assert_eq!(find(&zero.image()), at([2, 7]), "nothing stands before it");

    let behind = Program {
        before: b"code of C's, much of it",
        ..zero
    };
    assert_eq!(find(&behind.image()), Err(GoError::Text));
    let start = BASE + FIRST + 23;
    let (text, table) = (behind.text(), behind.table());
    let mut module = vec![0; 176];
    module.extend(start.to_le_bytes());
    let told = image(&[
        (".text", &text),
        (".gopclntab", &table),
        (".go.module", &module),
    ]);
    assert_eq!(find(&told), at([25, 30]));

    // The loader tells: for the header, or for the description.
    module[176..].fill(0);
    let table_at = BASE + FIRST + text.len() as u64;
    let module_at = table_at + table.len() as u64;
    for (kind, place, found) in [
        (8_u64, table_at + 24, at([25, 30])),
        (8, module_at + 176, at([25, 30])),
        (1027, module_at + 176, at([25, 30])),
        (8, module_at + 168, Err(GoError::Text)),
        (1, module_at + 176, Err(GoError::Text)),
    ] {
        let mut relocations = [7, 8, 9].map(u64::to_le_bytes).concat().repeat(6000);
        relocations.extend([place, kind, start].map(u64::to_le_bytes).concat());
        let told = image(&[
            (".text", &text),
            (".gopclntab", &table),
            (".go.module", &module),
            (".rela.dyn", &relocations),
        ]);
        assert_eq!(find(&told), found, "{kind} at {place:x}");
    }
}

#[test]
fn believes_only_what_begins_as_functions_do() {
    let off_by_one = Program {
        text_start: BASE + FIRST + 1,
        ..Program::default()
    };
    let bytes = image(&[
        ("other", &off_by_one.text()),
        (".gopclntab", &off_by_one.table()),
    ]);
    assert_eq!(find(&bytes), Err(GoError::Text));
    let large: &[&[u8]] = &[
        b"\x4c\x8d\x64\x24\xe8\x4d\x3b\x66\x10\xc3",
        b"\x4c\x8d\xa4\x24\x00\xff\xff\xff\x4d\x3b\x66\x10\xc3",
    ];
    for code in large {
        assert!(text::begins_a_function(Machine::X86_64, code));
        assert!(!text::begins_a_function(Machine::X86_64, &code[1..]));
        assert!(!text::begins_a_function(Machine::Aarch64, code));
    }
    assert!(text::begins_a_function(
        Machine::Aarch64,
        &[0x90, 0x0b, 0x40, 0xf9]
    ));
}

#[test]
fn refuses_tables_that_contradict_themselves() {
    let twice = Program {
        functions: &[(READ, SMALL), (READ, SMALL)],
        ..Program::default()
    };
    assert_eq!(find(&twice.image()), Err(GoError::Ambiguous));
    let whole = Program::default();
    let table = whole.table();
    let damaged = |at: usize, value: u64| {
        let mut table = table.clone();
        table[at..at + 8].copy_from_slice(&value.to_le_bytes());
        find(&image(&[(".text", &whole.text()), (".gopclntab", &table)]))
    };
    assert_eq!(damaged(8, 3), at([2, 7]));
    for (at, value) in [
        (8, 0),
        (8, 1 << 40),
        (8, 4),
        (32, 1 << 40),
        (64, 73),
        (40, 8),
    ] {
        assert_eq!(damaged(at, value), Err(GoError::Damaged), "{value} at {at}");
    }
}

#[test]
fn tells_the_version() {
    let of = |bytes: &[u8]| version(&Image::read(bytes).expect("an image"));
    let info = |version: &str| image(&[(".go.buildinfo", &buildinfo(version))]);
    assert_eq!(of(&info("go1.24.3")).as_deref(), Some("go1.24.3"));
    let long = "devel go1.27-0123456789 Tue Jan 2 15:04:05 2026 +0000";
    assert_eq!(of(&info(long)).as_deref(), Some(long));
    assert_eq!(
        of(&info("go1.24\x1b[2J")).as_deref(),
        Some(""),
        "nothing for a terminal"
    );
    let mut pointer = buildinfo("go1.17");
    pointer[15] = 0;
    assert_eq!(
        of(&image(&[(".go.buildinfo", &pointer)])).as_deref(),
        Some("")
    );
    assert_eq!(
        of(&image(&[(".rodata", b" \xff Go buildinf:")])),
        None,
        "not at its place"
    );
    let mut stripped = info("go1.24.3");
    stripped[40..48].fill(0);
    assert_eq!(
        of(&stripped).as_deref(),
        Some("go1.24.3"),
        "no section table"
    );
}

/// Go's own tool speaks TLS, and tells what it knows of itself.
#[test]
fn finds_what_go_itself_finds() {
    let go = |arguments: &[&str]| {
        let output = Command::new("go").args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let Some(root) = go(&["env", "GOROOT"]) else {
        println!("skipped: there is no Go here");
        return;
    };
    let tool = PathBuf::from(root.trim()).join("bin/go");
    let path = tool.to_str().expect("a path of letters");
    let file = File::open(&tool).expect("it just ran");
    let image = Image::read(&file).expect("it just ran");

    let told = go(&["version", path]).expect("it just ran");
    let own = version(&image).expect("it is Go's");
    assert!(
        told.trim_end().ends_with(&format!(": {own}")),
        "{told} and {own}"
    );

    let listed = go(&["tool", "nm", path]).expect("it just ran");
    for (name, function) in [READ, WRITE]
        .iter()
        .zip(functions(&image, &[READ, WRITE]).expect("its table is readable"))
    {
        let function = function.expect("it speaks TLS");
        let line = listed
            .lines()
            .find(|line| line.ends_with(&format!(" {name}")));
        let address = line.and_then(|line| line.split_whitespace().next());
        let address = u64::from_str_radix(address.expect("it has symbols"), 16).expect("digits");
        assert_eq!(image.code_offset(address), Some(function.offset), "{name}");
    }
}
