"""System calls that a program may not make, as a filter that the kernel runs at each of them.

It runs inside, before the program, with the standard library alone. Landlock leaves gaps, which
this closes: its network rules know TCP alone, and it guards neither a file's mode, owner and
times nor the limits of the user's other processes. In bubblewrap it is a second wall.
"""

import ctypes
import platform
import struct

from fnsft.evaluation.sandbox.confinement import PR_SET_SECCOMP, prctl

# Numbers on x86-64 and aarch64 (asm/unistd.h); None where the architecture has no such call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # The network, and talk with the host's services. io_uring would do it without the calls.
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # Leaving the process group, by which everything that was started is ended.
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # What outlives every process.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    # Other processes of the user.
    "ptrace": (101, 117),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "sched_setattr": (314, 274),
    # Capabilities over namespaces of one's own, and paths around the rules of files.
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    # What a file is beside its content.
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "utime": (132, None),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utimes": (235, None),
    "fchownat": (260, 54),
    "futimesat": (261, None),
    "fchmodat": (268, 53),
    "utimensat": (280, 88),
    "fchmodat2": (452, 452),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
# Calls that some arguments make harmless.
CLONE, CLONE3, PRLIMIT, SOCKETPAIR = (56, 220), (435, 435), (302, 261), (53, 199)
MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}  # linux/audit.h
X32 = 0x4000_0000  # on x86-64 the same calls again, under larger numbers

# Instructions of classic BPF, and the offsets in seccomp_data (linux/filter.h, linux/seccomp.h).
LOAD, EQUAL, AT_LEAST, HAS_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
SECCOMP_MODE_FILTER, SOCK_STREAM, SOCK_TYPE, NEWUSER = 2, 1, 0xF, 0x1000_0000
ERRNO, EPERM, ENOSYS = 0x0005_0000, 1, 38
ALLOW, REFUSE = (RETURN, 0, 0, 0x7FFF_0000), (RETURN, 0, 0, ERRNO | EPERM)
UNKNOWN = (RETURN, 0, 0, ERRNO | ENOSYS)


def forbid_calls() -> bool:
    """Refuse the calls above from now on, in children too; False: not known for this machine.

    It needs ``no_new_privs``.
    """
    known = MACHINES.get(platform.machine())
    if known is None:
        return False
    steps = b"".join(struct.pack("HBBI", *step) for step in _filter(*known))
    instructions = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("HxxxxxxQ", len(steps) // 8, ctypes.addressof(instructions))
    pointer = ctypes.create_string_buffer(program, len(program))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(pointer))
    return True


def _filter(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """Return (operation, steps skipped when true, when false, operand) of the filter."""
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), REFUSE]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), REFUSE]
    for numbers in REFUSED.values():
        number = numbers[column]
        steps += [] if number is None else [(EQUAL, 0, 1, number), REFUSE]
    # Its flags are in memory, out of a filter's sight; C libraries then use clone.
    steps += [(EQUAL, 0, 1, CLONE3[column]), UNKNOWN]
    steps += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    steps += [(HAS_BIT, 0, 1, NEWUSER), REFUSE, ALLOW]
    # Limits of this process alone, which is 0.
    steps += [(EQUAL, 0, 4, PRLIMIT[column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    steps += [(EQUAL, 1, 0, 0), REFUSE, ALLOW]
    # Connected streams, which asyncio needs; a datagram socket of a pair could send to others.
    steps += [(EQUAL, 0, 4, SOCKETPAIR[column]), (LOAD, 0, 0, SECOND_ARGUMENT)]
    steps += [(AND, 0, 0, SOCK_TYPE), (EQUAL, 1, 0, SOCK_STREAM), REFUSE]
    return [*steps, ALLOW]
