"""What runs in the sandbox: gives up its rights, then runs the program on its standard input.

Started by tasks/evaluate/sandbox.py as a script of its own with three numbers: seconds, bytes of memory,
bytes of a file. The first line of its input is a word; it writes the word where the program ran to its end,
else the name of the error. It imports nothing of this project, for it runs without its folder.

Landlock (Linux 5.19, ABI 2) forbids opening anything but the standard library and the system's shared
libraries, to read, and the working folder. Seccomp forbids whatever a system call's number tells: new
processes, programs, sockets, signals, owners and modes of files, tracing, namespaces. Both are inherited,
cannot be taken back, and need no privilege.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import platform
import random
import resource
import struct
import sys
from typing import Any, NoReturn

UNFIT = 97

# Names of what is forbidden, with its numbers on x86_64 and aarch64 (None: does not exist there).
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272),
    "setns": (308, 268), "unshare": (272, 97), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "prlimit64": (302, 261), "setrlimit": (160, 164), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "setuid": (105, 146), "setgid": (106, 144), "setgroups": (116, 159), "setresuid": (117, 147),
    "setresgid": (119, 149), "setsid": (112, 157), "setpgid": (109, 154), "capset": (126, 91),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45), "ioctl": (16, 29),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273), "reboot": (169, 142),
    "syslog": (103, 116), "acct": (163, 89), "swapon": (167, 224), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "personality": (135, 92),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262),
}  # fmt: skip
ARCHITECTURES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
"""Machine -> column of `CALLS`, its number in seccomp (AUDIT_ARCH), the number of clone."""
CLONE3 = 435
LANDLOCK = (444, 445, 446)
"""create_ruleset, add_rule, restrict_self, on every machine."""

CLONE_THREAD = 0x10000
DENY, ALLOW, KILL = 0x00050000, 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 1, 38

READ, WRITE = 1 << 2 | 1 << 3, 1 << 1
"""Read a file and list a folder; write a file."""
FOLDER = READ | WRITE | 1 << 5 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
"""The same, and remove, make, link, rename and cut files; no folders: deep ones cannot be cleared away."""
HANDLED = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Landlock's version -> the accesses it knows: all of them are forbidden but by a rule."""
NEEDED = (
    *(
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
    ),  # what ssl, lzma, sqlite3 are linked to
    *("/dev/zero", "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime"),
)

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the limits and the program, give up every right, run."""
    seconds, memory, file_bytes = map(int, sys.argv[1:4])
    word, _, program = sys.stdin.buffer.read().decode().partition("\n")
    out = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        unfit(out, f"{sys.platform} on {machine}")
    check(out, libc.prctl(38, 1, 0, 0, 0), "no_new_privs")  # PR_SET_NO_NEW_PRIVS
    forbid_files(out)
    forbid_calls(out, machine)
    os.environ.clear()
    sys.argv[:] = ["program"]
    random.seed(0)
    try:
        scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        exec(compile(program, "program", "exec"), scope)  # what this file is for
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are no passes either
        os.write(out, type(error).__name__.encode()[:100])
        os._exit(1)
    os.write(out, word.encode())
    os._exit(0)


def unfit(out: int, why: str) -> NoReturn:
    """Say why this machine will not do, and end."""
    os.write(out, why.encode())
    os._exit(UNFIT)


def check(out: int, result: int, what: str) -> None:
    """End where a call of the kernel failed."""
    if result < 0:
        unfit(out, f"{what}: {os.strerror(ctypes.get_errno())}")


def forbid_files(out: int) -> None:
    """Landlock: nothing can be opened but the standard library and the working folder."""
    create, add, restrict = LANDLOCK
    version = libc.syscall(create, None, ctypes.c_size_t(0), 1)
    check(out, version, "Landlock")
    if version < min(HANDLED):
        unfit(out, f"Landlock is of version {version}, 2 is needed")
    handled = HANDLED[max(known for known in HANDLED if known <= version)]
    rules = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = libc.syscall(create, rules, ctypes.c_size_t(8), 0)
    check(out, ruleset, "Landlock")
    library = [*filter(os.path.isdir, sys.path), os.path.join(sys.base_prefix, "lib")]
    wanted = [
        *((path, READ) for path in (*library, *NEEDED)),
        (os.devnull, READ | WRITE),
        (os.getcwd(), FOLDER & handled),
    ]
    for path, access in wanted:
        if not os.path.exists(path):
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = access if os.path.isdir(path) else access & (1 << 2 | WRITE)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, opened), 12)
        check(out, libc.syscall(add, ruleset, 1, rule, 0), f"Landlock, {path}")
        os.close(opened)
    check(out, libc.syscall(restrict, ruleset, 0), "Landlock")
    os.close(ruleset)


def forbid_calls(out: int, machine: str) -> None:
    """Seccomp: a program of the kernel's packet filter that looks at each call's number."""
    column, architecture, clone = ARCHITECTURES[machine]
    numbers = sorted(number for each in CALLS.values() if (number := each[column]) is not None)
    code = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, architecture),  # another one: killed
        (0x06, 0, 0, KILL),
        (0x20, 0, 0, 0),  # load the number
        (0x35, 0, 1, 0x40000000),  # the x32 calls of x86_64
        (0x06, 0, 0, DENY | EPERM),
        (0x15, 0, 1, CLONE3),  # not there: the library takes clone, whose flags can be seen
        (0x06, 0, 0, DENY | ENOSYS),
        (0x15, 0, 4, clone),
        (0x20, 0, 0, 16),  # load its flags
        (0x45, 1, 0, CLONE_THREAD),  # a thread
        (0x06, 0, 0, DENY | EPERM),
        (0x06, 0, 0, ALLOW),
    ]
    for number in numbers:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, DENY | EPERM)]
    code.append((0x06, 0, 0, ALLOW))
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
    check(out, libc.prctl(22, 2, program, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


if __name__ == "__main__":
    main()
