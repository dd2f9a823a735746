//! Where nginx shows, while it runs, whether it handles events or runs timers.
//!
//! Input: a process that waits for events. Output: [`Dispatch`], a word of its stack and what it holds while events are handled.
//!
//! `ngx_process_events_and_timers` (src/event/ngx_event.c) is called in an endless loop from one place, so its frame never moves. Everything that it
//! calls leaves its return address in the same word right below that frame: the word tells which call is being made. While the
//! process waits in epoll_wait, this is the call that also runs the callbacks of events (`ngx_epoll_process_events`); timers
//! and posted events have other ones. So the word is looked up once, and the kernel programs compare it whenever it matters.
//!
//! Nothing is read of a process that does something else, and nothing is ever written.

use std::{fs::File, io::Read, ops::Range, os::unix::fs::FileExt};

use crate::{
    image::{
        Image,
        symbols::{self, Lookup, Name},
    },
    process::source::ProcSource,
};

/// The function whose frame is looked for.
const FUNCTION: &str = "ngx_process_events_and_timers";
/// `epoll_wait`, `epoll_pwait`, `epoll_pwait2` (arch/x86/entry/syscalls/syscall_64.tbl).
const EPOLL_WAIT: [u64; 3] = [232, 281, 441];
/// `AT_ENTRY` (include/uapi/linux/auxvec.h).
const AT_ENTRY: u64 = 9;
/// Bytes of the stack between the system call and that frame; 80 are usual.
const DEPTH: usize = 2048;
/// Bytes of a section that is looked at; nginx has 1,400 symbols of 24 bytes.
const MAX_SECTION: u64 = 4 << 20;
/// Limit for `syscall` and `auxv`.
const MAX_BYTES: u64 = 4096;

/// A word that tells what an event loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatch {
    /// Its address in the process.
    pub slot: u64,
    /// What it holds while events are handled.
    pub handling: u64,
}

/// Looks at a process with nginx's event loop; `None` while it does not wait for events, or where it may not be looked at.
pub fn find(source: &impl ProcSource, tgid: u32) -> Option<Dispatch> {
    // Whoever calls its function so is taken for nginx: what does not wait costs no more than this.
    waiting(source, tgid)?;
    let image = source.image(tgid)?;
    let mut image = Image::read(&image).ok()?;
    image.sections.retain(|section| section.size <= MAX_SECTION);
    let entry = entry_of(source.open(tgid, "auxv")?)?;
    let moved_by = entry.wrapping_sub(image.entry);
    let function = match symbols::find(&image, &[Name::Plain(FUNCTION)]).pop()? {
        Lookup::Found(symbol) if !symbol.addresses.is_empty() => symbol.addresses,
        _ => return None,
    };
    let function = function.start.wrapping_add(moved_by)..function.end.wrapping_add(moved_by);
    // It may wake up in between: what is seen twice, and both times before and after, was seen at rest.
    let first = look(source, tgid, &function)?;
    (look(source, tgid, &function)? == first).then_some(first)
}

fn look(source: &impl ProcSource, tgid: u32, function: &Range<u64>) -> Option<Dispatch> {
    let stack = waiting(source, tgid)?;
    let mut bytes = [0; DEPTH];
    let read = source.open(tgid, "mem")?.read_at(&mut bytes, stack).ok()?;
    let (words, _) = bytes[..read].as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    // A return address lies behind a call, so it may equal the end and never the start.
    let (index, handling) = (0..)
        .zip(words)
        .find(|(_, word)| *word > function.start && *word <= function.end)?;
    (waiting(source, tgid)? == stack).then_some(Dispatch {
        slot: stack + index * 8,
        handling,
    })
}

/// The stack pointer of a process that waits for events.
fn waiting(source: &impl ProcSource, tgid: u32) -> Option<u64> {
    waiting_at(&small(source.open(tgid, "syscall")?)?)
}

/// The stack pointer of a process that waits for events, from `/proc/PID/syscall` (proc_pid_syscall(5)).
fn waiting_at(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_whitespace();
    let call: u64 = fields.next()?.parse().ok()?;
    let stack = fields.nth(6)?.strip_prefix("0x")?;
    let stack = u64::from_str_radix(stack, 16).ok()?;
    // The stack is on a word's boundary, as the calling convention has it, and lies below the kernel's half.
    (EPOLL_WAIT.contains(&call) && stack.is_multiple_of(8) && stack < 1 << 47).then_some(stack)
}

/// Where the program's first instruction is in the process.
fn entry_of(auxv: File) -> Option<u64> {
    let bytes = small(auxv)?;
    let (pairs, _) = bytes.as_chunks::<16>();
    let half = |pair: &[u8; 16], at: usize| {
        let bytes = pair[at..].first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let pair = pairs.iter().find(|pair| half(pair, 0) == Some(AT_ENTRY))?;
    half(pair, 8)
}

fn small(file: File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        image::testing::{image, symbol},
        process::fixture::ProcFolder,
    };

    /// Where the loader has put the program, and where its function is in the image.
    const MOVED_BY: u64 = 0x5555_0000_0000;
    const START: u64 = 0x4000;
    const STACK: u64 = 0x1_0000;

    fn nginx(folder: &ProcFolder, syscall: &str, stack: &[u64]) -> Option<Dispatch> {
        let symbols = [vec![0; 24], symbol(1, START, 0x100)].concat();
        let names = format!("\0{FUNCTION}\0");
        let program = folder.path().join("nginx");
        fs::write(
            &program,
            image(&[(".dynsym", &symbols), (".dynstr", names.as_bytes())]),
        )
        .expect("the folder is writable");
        folder.add(7, 1, &program.to_string_lossy(), &["nginx"]);
        let auxv = [3, 64, AT_ENTRY, MOVED_BY, 0, 0].map(u64::to_le_bytes);
        folder.write(7, "auxv", auxv.as_flattened());
        folder.write(7, "syscall", syscall.as_bytes());
        let words = stack.iter().flat_map(|word| word.to_le_bytes());
        let memory: Vec<u8> = vec![0; STACK as usize].into_iter().chain(words).collect();
        folder.write(7, "mem", &memory);
        find(&folder.source(), 7)
    }

    const WAITING: &str = "232 0x7 0x5580 0x200 0xffffffff 0x4 0x4 0x10000 0x7f61ef326ef3\n";

    #[test]
    fn finds_the_call_that_handles_events() {
        let folder = ProcFolder::new();
        let handling = MOVED_BY + START + 0x86;
        let stack = [
            1,
            MOVED_BY + START,
            MOVED_BY + 0x8000,
            handling,
            handling + 9,
        ];
        assert_eq!(
            nginx(&folder, WAITING, &stack),
            Some(Dispatch {
                slot: STACK + 24,
                handling
            })
        );
    }

    #[test]
    fn finds_nothing_while_the_process_does_something_else() {
        let folder = ProcFolder::new();
        let stack = [MOVED_BY + START + 0x86];
        assert_eq!(nginx(&folder, "running\n", &stack), None);
        let sleeping = WAITING.replacen("232", "230", 1);
        assert_eq!(nginx(&folder, &sleeping, &stack), None);
        let odd = WAITING.replace("0x10000 ", "0x10001 ");
        assert_eq!(nginx(&folder, &odd, &stack), None);
        assert_eq!(nginx(&folder, "232 0x7\n", &stack), None);
        assert_eq!(nginx(&folder, WAITING, &[1, 2, 3]), None);
        assert_eq!(nginx(&folder, WAITING, &[]), None);
    }

    /// Anybody may give a program such a function: it is not searched for in tables that no nginx has.
    #[test]
    fn leaves_large_tables_alone() {
        let folder = ProcFolder::new();
        let stack = [MOVED_BY + START + 0x86];
        for (more, found) in [(0, true), (MAX_SECTION as usize, false)] {
            let program = folder.path().join("nginx");
            nginx(&folder, WAITING, &stack);
            let symbols = [vec![0; 24], symbol(1, START, 0x100)].concat();
            let names = format!("\0{FUNCTION}\0{}", "x".repeat(more));
            let sections = [(".dynsym", &symbols[..]), (".dynstr", names.as_bytes())];
            fs::write(&program, image(&sections)).expect("the folder is writable");
            assert_eq!(find(&folder.source(), 7).is_some(), found);
        }
    }

    #[test]
    fn finds_nothing_of_a_process_that_is_gone() {
        assert_eq!(find(&ProcFolder::new().source(), 7), None);
    }
}
