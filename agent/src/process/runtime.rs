//! Which runtime an executable image holds, where that changes what may be concluded from its reads and writes.
//!
//! Input: an open image. Output: [`Runtime`], remembered per file. Names of executables are not looked at: anybody may call
//! a program `nginx`. Libraries that are loaded later are not looked at either: what a Python program does with libuv
//! follows other rules.

use std::{collections::HashMap, fs::File};

use agent_common::wire::decide::event_loop;

use super::source::{FileId, file_id};
use crate::image::{Image, ReadAt};

/// Images that are remembered; when there are more, all are forgotten and looked at anew.
const MAX_IMAGES: usize = 1024;

/// A runtime as its image shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// nginx and what is built from its source.
    Nginx,
    /// libuv in the program itself: Node.js.
    Libuv,
    /// Go.
    Go,
    /// Anything else, or an image that could not be read.
    Other,
}

impl Runtime {
    /// What its event loop does between two reads, in the bits of [`event_loop`]; 0 where nothing is known.
    #[must_use]
    pub const fn event_loop(self) -> u64 {
        match self {
            Self::Nginx => event_loop::IN_ORDER,
            Self::Libuv => event_loop::DEFERS,
            Self::Go | Self::Other => 0,
        }
    }

    /// `process.runtime.name`, where the image makes it evident.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        if matches!(self, Self::Go) {
            Some("go")
        } else {
            None
        }
    }

    /// `telemetry.sdk.language`, where the image makes it evident.
    #[must_use]
    pub const fn language(self) -> Option<&'static str> {
        self.name()
    }
}

/// How a runtime is recognised: by a text in a section, or by the section alone.
struct Mark {
    runtime: Runtime,
    section: &'static str,
    text: &'static [u8],
}

/// Every way to recognise a runtime; the first that fits counts.
const MARKS: &[Mark] = &[
    // Build information that the Go linker writes since 1.13 (cmd/link/internal/ld/data.go).
    Mark {
        runtime: Runtime::Go,
        section: ".go.buildinfo",
        text: b"",
    },
    // The event loop's entry, exported by Node.js for its native modules.
    Mark {
        runtime: Runtime::Libuv,
        section: ".dynstr",
        text: b"\0uv_run\0",
    },
    // Node.js built with its engine in a shared library.
    Mark {
        runtime: Runtime::Libuv,
        section: ".dynstr",
        text: b"\0libnode.so.",
    },
    // The event loop's body (src/event/ngx_event.c); nginx exports its functions for its modules, also in what is built
    // from its source under other names. A text such as its version would be found in programs that look for it, too.
    Mark {
        runtime: Runtime::Nginx,
        section: ".dynstr",
        text: b"\0ngx_process_events_and_timers\0",
    },
];

/// Looks at an image.
#[must_use]
pub fn recognise(image: &(impl ReadAt + ?Sized)) -> Runtime {
    let Ok(image) = Image::read(image) else {
        return Runtime::Other;
    };
    let fits = |mark: &&Mark| {
        let section = image.section(mark.section);
        section.is_some_and(|section| image.holds(section, mark.text))
    };
    MARKS
        .iter()
        .find(fits)
        .map_or(Runtime::Other, |mark| mark.runtime)
}

/// Runtimes by image, each looked at once.
#[derive(Debug, Default)]
pub struct Runtimes {
    known: HashMap<FileId, Runtime>,
}

impl Runtimes {
    /// The runtime in an open image.
    pub fn of(&mut self, image: &File) -> Runtime {
        let Some(id) = file_id(image) else {
            return Runtime::Other;
        };
        if self.known.len() >= MAX_IMAGES && !self.known.contains_key(&id) {
            self.known.clear();
        }
        *self.known.entry(id).or_insert_with(|| recognise(image))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{image::testing::image, process::fixture::ProcFolder};

    #[test]
    fn recognises_runtimes_by_what_is_in_the_image() {
        let of = |sections: &[(&str, &[u8])]| recognise(image(sections).as_slice());
        assert_eq!(
            of(&[(".dynstr", b"\0ngx_cycle\0ngx_process_events_and_timers\0")]),
            Runtime::Nginx
        );
        assert_eq!(
            of(&[(".dynstr", b"\0uv_read_start\0uv_run\0")]),
            Runtime::Libuv
        );
        assert_eq!(of(&[(".dynstr", b"\0libnode.so.108\0")]), Runtime::Libuv);
        assert_eq!(
            of(&[(".text", b""), (".go.buildinfo", b"\xff Go buildinf:")]),
            Runtime::Go
        );
    }

    #[test]
    fn does_not_take_a_name_for_a_runtime() {
        let of = |sections: &[(&str, &[u8])]| recognise(image(sections).as_slice());
        assert_eq!(
            of(&[(".rodata", b"nginx version: nginx/1.22")]),
            Runtime::Other
        );
        assert_eq!(
            of(&[(".rodata", b"\0ngx_process_events_and_timers\0uv_run\0")]),
            Runtime::Other,
            "a program that knows the names, such as this one"
        );
        let own = File::open("/proc/self/exe").expect("its own image is readable");
        assert_eq!(recognise(&own), Runtime::Other);
        assert_eq!(
            of(&[(".dynstr", b"\0my_uv_run\0uv_runner\0")]),
            Runtime::Other
        );
        assert_eq!(
            of(&[(".dynstr", b"\0libuv.so.1\0")]),
            Runtime::Other,
            "a library of somebody's"
        );
        assert_eq!(recognise(b"#!/usr/bin/env node".as_slice()), Runtime::Other);
    }

    #[test]
    fn looks_at_a_file_again_when_it_was_replaced() {
        let folder = ProcFolder::new();
        let path = folder.path().join("program");
        let mut runtimes = Runtimes::default();
        let mut of = |bytes: &[u8]| {
            let next = folder.path().join("next");
            File::create(&next)
                .and_then(|mut file| file.write_all(bytes))
                .expect("the folder is writable");
            std::fs::rename(&next, &path).expect("the folder is writable");
            runtimes.of(&File::open(&path).expect("it was just written"))
        };
        // The first image stays open and keeps its inode, as a running program would.
        let first = image(&[(".dynstr", b"\0ngx_process_events_and_timers\0")]);
        assert_eq!(of(&first), Runtime::Nginx);
        let held = File::open(&path).expect("it was just written");
        assert_eq!(
            of(&image(&[(".rodata", b"something else entirely")])),
            Runtime::Other
        );
        assert_eq!(runtimes.of(&held), Runtime::Nginx);
        assert_eq!(runtimes.known.len(), 2);
    }
}
