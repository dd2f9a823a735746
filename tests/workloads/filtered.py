"""Runs a program under the filter of system calls that systemd makes for a unit:
filtered.py SYSTEM_CALLS ADDRESS_FAMILIES NAMESPACES PROGRAM ARGUMENT...

The first three words are what stands behind SystemCallFilter=, RestrictAddressFamilies= and RestrictNamespaces= (systemd.exec(5)), with blanks between
the names; sets of system calls are those of this machine's systemd. What is not allowed fails as it does there: with EPERM, a socket with EAFNOSUPPORT.
x86-64 only.
"""

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
import sys

# linux/audit.h
X86_64 = 0xC000003E
# linux/filter.h, linux/bpf_common.h: instructions.
LOAD, EQUALS, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
# linux/seccomp.h: what a filter says, and where struct seccomp_data has what it asks.
ALLOW, FAIL = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
# linux/prctl.h
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
# linux/sched.h
NAMESPACES = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


def numbers():
    """The number of each system call of this machine."""
    with open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", encoding="ascii") as header:
        found = re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read())
    return {name: int(number) for name, number in found}


def sets():
    """What is in each set of system calls: names, and other sets."""
    output = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter"], check=True, capture_output=True, text=True).stdout
    members, current = {}, None
    for line in output.splitlines():
        # Colours, and remarks on the sets.
        word = re.sub("\x1b\\[[0-9;]*m", "", line).strip()
        if word.startswith("#") or not word:
            continue
        if not line[0].isspace() and word.startswith("@"):
            current = members.setdefault(word, [])
        elif current is not None:
            current.append(word)
    return members


def expand(names, members):
    """All system calls that are meant."""
    found = set()
    for name in names:
        if name.startswith("@"):
            found |= expand(members[name], members)
        else:
            found.add(name)
    return found


def instruction(code, value, if_so=0, else_=0):
    return struct.pack("HBBI", code, if_so, else_, value)


def fail(error):
    return instruction(RETURN, FAIL | error)


def program(calls, families, namespaces):
    """The filter, instruction by instruction."""
    known = numbers()
    lines = [instruction(LOAD, ARCHITECTURE), instruction(EQUALS, X86_64, 1), fail(errno.EPERM)]

    def where(call, checks):
        """These instructions for this system call only."""
        lines.extend([instruction(LOAD, NUMBER), instruction(EQUALS, known[call], 0, len(checks)), *checks])

    # A family that is named jumps over what the others meet.
    checks = [instruction(LOAD, FIRST_ARGUMENT)]
    for at, family in enumerate(families):
        checks.append(instruction(EQUALS, getattr(socket, family), len(families) - at))
    where("socket", checks + [fail(errno.EAFNOSUPPORT)])
    forbidden = sum(flag for name, flag in NAMESPACES.items() if name not in namespaces)
    for call, argument in (("clone", FIRST_ARGUMENT), ("unshare", FIRST_ARGUMENT), ("setns", SECOND_ARGUMENT)):
        where(call, [instruction(LOAD, argument), instruction(ANY_BIT, forbidden, 0, 1), fail(errno.EPERM)])
    # Any namespace could be meant.
    where("setns", [instruction(LOAD, SECOND_ARGUMENT), instruction(EQUALS, 0, 0, 1), fail(errno.EPERM)])
    # Its flags lie in memory, where a filter does not see them: the C library then calls clone.
    where("clone3", [fail(errno.ENOSYS)])
    lines.append(instruction(LOAD, NUMBER))
    for number in sorted(known[call] for call in calls if call in known):
        lines.extend([instruction(EQUALS, number, 0, 1), instruction(RETURN, ALLOW)])
    return lines + [fail(errno.EPERM)]


calls, families, namespaces = (word.split() for word in sys.argv[1:4])
lines = program(expand(calls, sets()), families, namespaces)
code = ctypes.create_string_buffer(b"".join(lines))
libc = ctypes.CDLL(None, use_errno=True)
# struct sock_fprog
filter_ = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0) != 0:
    sys.exit(f"no filter can be set: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[4], sys.argv[4:])
