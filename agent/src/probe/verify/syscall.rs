//! BPF_PROG_LOAD with a log that is kept when the program is fine.
//!
//! Input: instructions and where they would be attached. Output: what the kernel said. The program is closed again at once. Line numbers are
//! left out: the verifier needs the functions' types, which it checks one by one when they are global, and nothing else.
#![expect(
    unsafe_code,
    reason = "a system call whose log the loading library does not hand out"
)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::{Function, generated::bpf_cmd};
use zerocopy::{Immutable, IntoBytes};

/// The log holds the statistics and, where a program is refused, the reason.
const LOG_BYTES: usize = 1 << 20;

/// `BPF_LOG_STATS` of Linux include/linux/bpf_verifier.h: no line per instruction.
const LOG_STATS: u32 = 4;

/// A program to load.
pub(super) struct Request<'a> {
    /// Its instructions, maps and calls in place.
    pub(super) function: &'a Function,
    /// The types of its functions.
    pub(super) btf: Option<&'a OwnedFd>,
    /// Its license.
    pub(super) license: &'a CStr,
    /// A `bpf_prog_type`.
    pub(super) program_type: u32,
    /// A `bpf_attach_type`.
    pub(super) attach_type: u32,
    /// Type number of the function or tracepoint in the kernel's BTF, 0 for none.
    pub(super) attach_btf_id: u32,
}

/// What the kernel said.
pub(super) struct Answer {
    /// Bytes of the program after the kernel's own changes, or why it did not take it.
    pub(super) translated_bytes: io::Result<u32>,
    /// The verifier's log.
    pub(super) log: String,
}

/// `struct { ... } /* used by BPF_PROG_LOAD command */` of union `bpf_attr`, Linux include/uapi/linux/bpf.h, 5.10.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Attributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    padding: u32,
}

/// `struct { ... } /* used by BPF_BTF_LOAD command */`, likewise.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct BtfAttributes {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    padding: u32,
}

/// `struct { ... } info` of union `bpf_attr`, likewise.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`; the kernel fills as much as there is room for.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
}

/// Has the kernel verify the program.
pub(super) fn load(request: &Request<'_>) -> Answer {
    let mut log = vec![0_u8; LOG_BYTES];
    let function = request.function;
    let mut attributes = Attributes {
        prog_type: request.program_type,
        insn_cnt: function.instructions.len() as u32,
        insns: function.instructions.as_ptr() as u64,
        license: request.license.as_ptr() as u64,
        log_level: LOG_STATS,
        log_size: LOG_BYTES as u32,
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type: request.attach_type,
        attach_btf_id: request.attach_btf_id,
        ..Attributes::default()
    };
    let func_info = function.func_info.func_info_bytes();
    if let Some(btf) = request.btf {
        attributes.prog_btf_fd = btf.as_raw_fd() as u32;
        attributes.func_info_rec_size = function.func_info_rec_size as u32;
        attributes.func_info = func_info.as_ptr() as u64;
        attributes.func_info_cnt = function.func_info.len() as u32;
    }
    let program = bpf_fd(bpf_cmd::BPF_PROG_LOAD, &attributes);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    log.truncate(end);
    Answer {
        translated_bytes: program.and_then(|program| translated_bytes(&program)),
        log: String::from_utf8_lossy(&log).into_owned(),
    }
}

/// Gives the object's own types to the kernel.
pub(super) fn load_btf(types: &[u8]) -> io::Result<OwnedFd> {
    let attributes = BtfAttributes {
        btf: types.as_ptr() as u64,
        btf_size: types.len() as u32,
        ..BtfAttributes::default()
    };
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &attributes)
}

fn translated_bytes(program: &OwnedFd) -> io::Result<u32> {
    let mut info = ProgramInfo::default();
    let attributes = InfoAttributes {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info.xlated_prog_len)
}

/// A command that makes a file descriptor.
fn bpf_fd<T: IntoBytes + Immutable>(command: bpf_cmd, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call. Pointers in `attributes` are to memory that outlives it, with their true lengths.
fn bpf<T: IntoBytes + Immutable>(command: bpf_cmd, attributes: &T) -> io::Result<RawFd> {
    let command = command as libc::c_long;
    let attributes = attributes.as_bytes();
    // SAFETY: the attributes are bytes of their true length, in the layout of the command. Of the memory that they point to the kernel reads
    // what its callers gave and writes only the log or the info, whose lengths are among them.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    let value = RawFd::try_from(returned).ok().filter(|value| *value >= 0);
    value.ok_or_else(io::Error::last_os_error)
}
