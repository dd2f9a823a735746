//! `cargo xtask bench functions`: how many instructions each function of the kernel programs executes for a request.
//!
//! The emulator writes down each block of instructions that runs where the kernel keeps compiled programs, and of which instructions it is made; the
//! guest tells which function lies where. What programs call in the kernel's own text (map look-ups, reads of memory) is not in it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;
use serde::Deserialize;

use super::table;

/// Functions of less than this many instructions per request are left out.
const LEAST: f64 = 0.5;

/// What `loadlab functions` left.
#[derive(Debug, Deserialize)]
pub(super) struct Found {
    requests: u64,
    /// Address and name of each function of a program, and of each trampoline.
    symbols: Vec<(u64, String)>,
}

impl Found {
    /// Reads the program's result.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut found: Self = serde_json::from_str(text)
            .context("the result of `loadlab functions` is not understood")?;
        ensure!(
            found.requests > 0,
            "no request was served while functions were counted"
        );
        found.symbols.sort();
        Ok(found)
    }

    /// The function at an address; none where it lies behind all of them.
    fn at(&self, address: u64) -> Option<&(u64, String)> {
        /// No function is longer.
        const LONGEST: u64 = 1 << 18;
        let behind = self.symbols.partition_point(|(start, _)| *start <= address);
        let found = self.symbols.get(behind.checked_sub(1)?)?;
        (address - found.0 < LONGEST).then_some(found)
    }
}

/// Blocks of instructions by the address of their first one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Blocks {
    /// How often each ran.
    runs: HashMap<u64, u64>,
    /// Instructions in each, where it was not cut short.
    lengths: HashMap<u64, u64>,
    /// How often each was cut short, because an interrupt was due, and instructions that ran then.
    cut: HashMap<u64, (u64, u64)>,
}

impl Blocks {
    /// Reads what QEMU writes for `-d exec,nochain,in_asm`.
    fn read(mut input: impl BufRead) -> std::io::Result<Self> {
        let mut blocks = Self::default();
        let mut line = Vec::new();
        // The block that is being shown: its address, and instructions so far. It is shown again where it is cut.
        let mut shown = None;
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                return Ok(blocks);
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(rest) = text.strip_prefix("Trace ") {
                blocks.ran(rest);
            } else if text.starts_with("IN:") {
                shown = None;
            } else if let Some(address) = instruction(&text) {
                let (block, length) = shown.get_or_insert((address, 0));
                *length += 1;
                let longest = blocks.lengths.entry(*block).or_default();
                *longest = (*longest).max(*length);
            }
        }
    }

    /// Notes a run: `0: HOST [CS_BASE/ADDRESS/FLAGS/CFLAGS] SYMBOL`.
    fn ran(&mut self, line: &str) {
        /// The part of the last word that says after how many instructions a block ends, 0 for not before its own end (`CF_COUNT_MASK` of QEMU).
        const COUNT: u64 = 0x1ff;
        let mut words = line.split(['/', ']']).skip(1);
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (Some(address), Some(_), Some(flags)) = (number(), number(), number()) else {
            return;
        };
        if flags & COUNT == 0 {
            *self.runs.entry(address).or_default() += 1;
        } else {
            let (runs, instructions) = self.cut.entry(address).or_default();
            *runs += 1;
            *instructions += flags & COUNT;
        }
    }

    /// Address, runs and instructions of each.
    fn each(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let whole = self.runs.iter().map(|(address, runs)| {
            let length = self.lengths.get(address).copied().unwrap_or_default();
            (*address, *runs, runs * length)
        });
        let cut = self.cut.iter();
        whole.chain(cut.map(|(address, (runs, instructions))| (*address, *runs, *instructions)))
    }
}

/// The address of an instruction in a line of a disassembly, none in other lines and in those that go on with the bytes of a long one.
fn instruction(line: &str) -> Option<u64> {
    let (address, rest) = line.strip_prefix("0x")?.split_once(':')?;
    let is_byte = |word: &str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
    if rest.split_whitespace().all(is_byte) {
        return None;
    }
    u64::from_str_radix(address, 16).ok()
}

/// A pipe into which the emulator writes, and the thread that reads it.
pub(super) struct Trace {
    path: PathBuf,
    reader: JoinHandle<Result<Blocks>>,
}

impl Trace {
    /// Makes the pipe in a folder, and reads from it as soon as somebody writes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let path = folder.join("blocks");
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let made = Command::new("mkfifo").arg(&path).status();
        if !made.context("cannot run mkfifo")?.success() {
            bail!("cannot make the pipe {}", path.display());
        }
        let from = path.clone();
        let reader = thread::spawn(move || {
            let pipe = File::open(&from).context("cannot open the emulator's pipe")?;
            Blocks::read(BufReader::with_capacity(1 << 20, pipe))
                .context("cannot read the emulator's pipe")
        });
        Ok(Self { path, reader })
    }

    /// The pipe.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All that was written. The emulator has ended, or never begun.
    ///
    /// # Errors
    /// When it could not be read.
    pub(super) fn end(self) -> Result<Blocks> {
        // Lets a reader go on that nobody has written to; there is none any more otherwise.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let _ = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&self.path);
        let blocks = self.reader.join().expect("reading does not panic");
        fs::remove_file(&self.path)?;
        blocks
    }
}

/// A table of functions, the dearest first.
pub(super) fn render(found: &Found, blocks: &Blocks) -> String {
    let requests = found.requests as f64;
    let mut functions: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (address, runs, executed) in blocks.each() {
        let Some((start, name)) = found.at(address) else {
            continue;
        };
        let (calls, instructions) = functions.entry(name).or_default();
        *calls += if address == *start { runs } else { 0 };
        *instructions += executed;
    }
    let mut rows: Vec<(&str, f64, f64)> = functions
        .into_iter()
        .map(|(name, (calls, instructions))| {
            (
                name,
                calls as f64 / requests,
                instructions as f64 / requests,
            )
        })
        .collect();
    rows.sort_by(|one, other| other.2.total_cmp(&one.2));
    let total: f64 = rows.iter().map(|(_, _, each)| each).sum();
    let mut cells = vec![
        ["function", "calls", "instructions"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, calls, each) in rows.iter().filter(|(_, _, each)| *each >= LEAST) {
        cells.push(vec![
            (*name).to_owned(),
            format!("{calls:.2}"),
            table::number(*each),
        ]);
    }
    cells.push(vec!["all".to_owned(), String::new(), table::number(total)]);
    let mut text = table::align(&cells);
    let _ = writeln!(
        text,
        "Per request of nginx, {} requests. Jumps from one program into another are no calls.",
        table::number(requests)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
IN: 
0xffffffffc0001000:  f3 0f 1e fa              endbr64  
0xffffffffc0001004:  48 bf 00 8a b5 df 3e 42  movabsq  $0xff3423edfab58a00, %rdi
0xffffffffc000100c:  ff 10
0xffffffffc000100e:  74 10                    je       0xffffffffc0001020

Trace 0: 0x7f62476ca0c0 [0000000000000000/ffffffffc0001000/18c0c2b0/ff020200] 
IN: 
0xffffffffc0001020:  90                       nop      
0xffffffffc0001021:  c3                       retq     

Trace 0: 0x7f62476ca280 [0000000000000000/ffffffffc0001020/18c0c2b0/ff020200] 
Trace 0: 0x7f62476ca0c0 [0000000000000000/ffffffffc0001000/18c0c2b0/ff020200] 
IN: 
0xffffffffc0001000:  f3 0f 1e fa              endbr64  

Trace 0: 0x7f62476ca600 [0000000000000000/ffffffffc0001000/18c0c2b0/ff020201] 
IN: 
0xffffffffc0001004:  48 bf 00 8a b5 df 3e 42  movabsq  $0xff3423edfab58a00, %rdi
0xffffffffc000100c:  ff 10
0xffffffffc000100e:  74 10                    je       0xffffffffc0001020

Trace 0: 0x7f62476ca700 [0000000000000000/ffffffffc0001004/18c0c2b0/ff020200] 
Trace 0: 0x7f62476ca0c0 [0000000000000000/ffffffffc0000ff0/18c0c2b0/ff020200] 
";

    #[test]
    fn blocks_are_counted_with_their_instructions() {
        let blocks = Blocks::read(LOG.as_bytes()).expect("bytes can be read");
        let (first, rest, second, other) = (
            0xffff_ffff_c000_1000,
            0xffff_ffff_c000_1004,
            0xffff_ffff_c000_1020,
            0xffff_ffff_c000_0ff0,
        );
        assert_eq!(
            blocks.runs,
            HashMap::from([(first, 2), (rest, 1), (second, 1), (other, 1)])
        );
        // It was cut once behind its first instruction, and is as long as before.
        assert_eq!(
            blocks.lengths,
            HashMap::from([(first, 3), (rest, 2), (second, 2)])
        );
        assert_eq!(blocks.cut, HashMap::from([(first, (1, 1))]));
    }

    #[test]
    fn a_function_has_its_calls_and_instructions() {
        let blocks = Blocks::read(LOG.as_bytes()).expect("bytes can be read");
        let found = Found::parse(
            r#"{"requests":4,"symbols":[[18446744072635813920,"second"],[18446744072635813888,"first"]]}"#,
        );
        // 0xffffffffc0001020 and 0xffffffffc0001000; nothing is known of what lies before them.
        let text = render(&found.expect("it is well formed"), &blocks);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        // Three times three instructions in three calls, one of them in two parts, and two in one.
        assert_eq!(rows[1], ["first", "0.75", "2"]);
        assert_eq!(rows[2], ["second", "0.25", "0"]);
        assert_eq!(rows[3], ["all", "3"]);
    }

    #[test]
    fn nothing_is_divided_by_no_request() {
        assert!(Found::parse(r#"{"requests":0,"symbols":[]}"#).is_err());
    }
}
