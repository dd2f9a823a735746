"""Runs a program under a process id that nobody has: with_pid.py PID PROGRAM ARGUMENT..., or with_pid.py PID --copy SCRIPT ARGUMENT... for a Python
script that this interpreter's copy runs itself.

clone3(2) takes the id (Linux 5.5, CAP_SYS_ADMIN). Ends as the program does.
"""

import ctypes
import os
import runpy
import signal
import struct
import sys

# The same number on every architecture.
CLONE3 = 435

pid, program = int(sys.argv[1]), sys.argv[2:]
wanted = (ctypes.c_int * 1)(pid)
# struct clone_args (include/uapi/linux/sched.h): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size.
arguments = struct.pack("10Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1)
# Holds the interpreter's lock over the call, so that the copy has it.
libc = ctypes.PyDLL(None, use_errno=True)
child = libc.syscall(ctypes.c_long(CLONE3), arguments, ctypes.c_size_t(len(arguments)))
if child == 0:
    try:
        if program[0] == "--copy":
            sys.argv = program[1:]
            runpy.run_path(program[1], run_name="__main__")
        else:
            os.execvp(program[0], program)
    finally:
        os._exit(127)
if child < 0:
    sys.exit(f"cannot have the process id {pid}: {os.strerror(ctypes.get_errno())}")
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
