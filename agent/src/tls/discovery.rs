//! Which libraries of TLS a process has, now.
//!
//! Input: a `/proc`, and a process to look at. Output: [`Look`]. Each file is examined once, whoever has mapped it: a process that has loaded
//! another library meanwhile is looked at again, and only what is new is read. What is known of a file is kept under its device,
//! inode and time of change, so that one that was replaced is another one. It is opened each time: what `maps` says of its device is not what a file's own
//! status says (btrfs), and may have changed before it is opened.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::ErrorKind,
    path::PathBuf,
    sync::Arc,
};

use super::{Examined, Finding, examine};
use crate::{
    image::{Image, ImageError, build_id},
    process::{
        mapped::{self, Mapped},
        source::{FileId, Proc, ProcSource as _, file_id},
    },
};

/// Files with TLS that are kept, at about 1 KB each; when there are more, all are forgotten and examined anew.
const MAX_KNOWN: usize = 4096;
/// Files without that are remembered, at 32 bytes each.
const MAX_WITHOUT: usize = 32_768;

/// What is known of a file.
#[derive(Debug)]
struct Known {
    examined: Examined,
    build_id: Option<String>,
}

/// A library in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file that holds it, as the process saw its path.
    pub path: PathBuf,
    /// Whether that is the program itself.
    pub built_in: bool,
    /// The file's build id, where its linker wrote one.
    pub build_id: Option<String>,
    /// What was found.
    pub finding: Finding,
}

/// What was seen of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It ended before it was looked at to the end, or is a thread of the kernel.
    Gone,
    /// This process may not look at it.
    Denied,
    /// Its program is no image that is looked at.
    Unreadable(ImageError),
    /// It was looked at.
    Seen {
        /// Its libraries; none where it has none that is known.
        libraries: Vec<Located>,
        /// Files that it has mapped and that could not be opened, so that nothing is known of them: deleted or replaced, where this process has neither
        /// CAP_CHECKPOINT_RESTORE nor CAP_SYS_ADMIN.
        unopened: Vec<PathBuf>,
    },
}

/// Looks at processes, and remembers files.
#[derive(Debug)]
pub struct Discovery {
    folder: PathBuf,
    source: Proc,
    known: HashMap<FileId, Arc<Known>>,
    without: HashSet<FileId>,
    examined: u64,
}

impl Discovery {
    /// Looks at the processes of the `/proc` mounted at `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            source: Proc::new(&folder),
            folder,
            known: HashMap::new(),
            without: HashSet::new(),
            examined: 0,
        }
    }

    /// How many files were examined so far.
    #[must_use]
    pub const fn examined(&self) -> u64 {
        self.examined
    }

    /// Looks at the process that has this id now.
    pub fn look(&mut self, tgid: u32) -> Look {
        self.look_with(tgid, |_, _, _| {})
    }

    /// The same, and hands over each file with something in it. What is handed over counts also where the process is gone in the end: files stay.
    pub fn look_with(&mut self, tgid: u32, mut each: impl FnMut(FileId, &File, &Examined)) -> Look {
        let Some(before) = self.source.stat(tgid).filter(|stat| !stat.kernel_thread) else {
            return Look::Gone;
        };
        let files = match mapped::files(&self.folder, tgid) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Look::Denied,
            Err(_) => return Look::Gone,
        };
        let program = self.source.image(tgid);
        let look = self.look_at(tgid, &files, program.as_ref(), &mut each);
        // Half of one process and half of another is nobody.
        match self.source.stat(tgid) {
            Some(after) if after.start == before.start => look,
            _ => Look::Gone,
        }
    }

    fn look_at(
        &mut self,
        tgid: u32,
        files: &[Mapped],
        program: Option<&File>,
        each: &mut impl FnMut(FileId, &File, &Examined),
    ) -> Look {
        let program = program.and_then(file_id);
        let (mut libraries, mut unopened) = (Vec::new(), Vec::new());
        let mut openssl = Vec::new();
        for mapped in files {
            let file = mapped::open(&self.folder, tgid, mapped);
            let Some((file, id)) = file.and_then(|file| file_id(&file).map(|id| (file, id))) else {
                unopened.push(mapped.path.clone());
                continue;
            };
            if self.without.contains(&id) {
                continue;
            }
            let built_in = program == Some(id);
            let known = match self.known(id, &file) {
                Ok(Some(known)) => known,
                Ok(None) => {
                    self.remember_without(id);
                    continue;
                }
                Err(error) if built_in => return Look::Unreadable(error),
                Err(error) => {
                    tracing::debug!(path = %mapped.path.display(), %error, "mapped file is not examined");
                    self.remember_without(id);
                    continue;
                }
            };
            each(id, &file, &known.examined);
            if let Some(version) = &known.examined.openssl {
                openssl.push((mapped.path.parent(), version.clone()));
            }
            libraries.extend(known.examined.findings.iter().map(|finding| Located {
                path: mapped.path.clone(),
                built_in,
                build_id: known.build_id.clone(),
                finding: finding.clone(),
            }));
        }
        // The two parts of OpenSSL are installed together, and one of them tells the exact version.
        for library in &mut libraries {
            let mut beside = openssl
                .iter()
                .filter(|(folder, _)| *folder == library.path.parent());
            if library.finding.library == super::openssl::OPENSSL.name
                && !library.built_in
                && let (Some((_, version)), None) = (beside.next(), beside.next())
            {
                library.finding.version = Some(version.clone());
            }
        }
        Look::Seen {
            libraries,
            unopened,
        }
    }

    /// What is known of a file; none where there is nothing of interest in it.
    fn known(&mut self, id: FileId, file: &File) -> Result<Option<Arc<Known>>, ImageError> {
        if let Some(known) = self.known.get(&id) {
            return Ok(Some(Arc::clone(known)));
        }
        self.examined += 1;
        let image = Image::read(file)?;
        let examined = examine(&image);
        if examined == Examined::default() {
            return Ok(None);
        }
        for finding in &examined.findings {
            if let Err(reason) = &finding.probes {
                tracing::debug!(library = finding.library, %reason, "TLS of a file cannot be seen");
            }
        }
        let known = Arc::new(Known {
            examined,
            build_id: build_id(&image),
        });
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(id, Arc::clone(&known));
        Ok(Some(known))
    }

    fn remember_without(&mut self, id: FileId) {
        if self.without.len() >= MAX_WITHOUT {
            self.without.clear();
        }
        self.without.insert(id);
    }
}

#[cfg(test)]
mod tests;
