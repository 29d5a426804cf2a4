"""BPF programs in the kernel: what they take by its own account, and the least that there is to compare them with."""

import ctypes
import os
import socket
import struct
from pathlib import Path

# Commands, types and places of linux/bpf.h.
PROG_LOAD, PROG_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD, PROG_QUERY, LINK_CREATE = 5, 13, 15, 16, 28
SCHED_CLS, TCX_INGRESS = 3, 46
CLONE_REDIRECT = 13
# As many as the kernel allows at one place.
AT_MOST = 64
NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
# What an instruction does with its first register: a number or another register moves into it.
NUMBER, REGISTER, CALL, EXIT = 0xb7, 0xbf, 0x85, 0x95
SETTING = Path("/proc/sys/kernel/bpf_stats_enabled")


class Statistics:
    """Has the kernel account for the programs' time meanwhile, which costs two looks at the clock for each run."""

    def __enter__(self):
        self.before = SETTING.read_text()
        SETTING.write_text("1")

    def __exit__(self, *_):
        SETTING.write_text(self.before)


class Least:
    """A program at an interface of the current namespace that lets all packets pass, and hands a copy of each to
    the interfaces with these indices. It runs after those that are there."""

    def __init__(self, interface, targets=()):
        code = [(REGISTER, 6, 1, 0)]
        for target in targets:
            code += [(REGISTER, 1, 6, 0), (NUMBER, 2, 0, target), (NUMBER, 3, 0, 0), (CALL, 0, 0, CLONE_REDIRECT)]
        # TCX_NEXT
        code += [(NUMBER, 0, 0, -1), (EXIT, 0, 0, 0)]
        text = b"".join(struct.pack("=BBhi", what, to | source << 4, 0, number) for what, to, source, number in code)
        instructions, licence = ctypes.create_string_buffer(text), ctypes.create_string_buffer(b"Dual MIT/GPL")
        load = struct.pack("=IIQQ24x16sII", SCHED_CLS, len(code), ctypes.addressof(instructions),
                           ctypes.addressof(licence), b"mcrun_bench", 0, TCX_INGRESS)
        self.program = call(PROG_LOAD, bytearray(load))
        try:
            link = struct.pack("=IIIIIIQ", self.program, socket.if_nametoindex(interface), TCX_INGRESS, 0, 0, 0, 0)
            self.link = call(LINK_CREATE, bytearray(link))
        except BaseException:
            os.close(self.program)
            raise
        self.id = int(shown(f"/proc/self/fdinfo/{self.program}")["prog_id"])

    def close(self):
        """Takes the program away."""
        os.close(self.link)
        os.close(self.program)


def at_interface(name):
    """Ids of the programs for what arrives at an interface of the current namespace."""
    ids = (ctypes.c_uint32 * AT_MOST)()
    index = socket.if_nametoindex(name)
    call(PROG_QUERY, bytearray(struct.pack("=IIIIQI36x", index, TCX_INGRESS, 0, 0, ctypes.addressof(ids), AT_MOST)))
    return [program for program in ids if program]


def of_process(pid, name):
    """Ids of the programs with this name of which a process has a descriptor."""
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            found.add(int(shown(file).get("prog_id", 0)))
        except FileNotFoundError:
            # The process has closed it meanwhile.
            continue
    return [program for program in found if program and name_of(program) == name]


def name_of(program):
    """The name that the program was loaded by."""
    # `struct bpf_prog_info` up to its name.
    info = ctypes.create_string_buffer(80)
    fd = descriptor(program)
    try:
        call(OBJ_GET_INFO_BY_FD, bytearray(struct.pack("=IIQ", fd, len(info), ctypes.addressof(info))))
    finally:
        os.close(fd)
    return info.raw[64:80].rstrip(b"\0").decode()


def account(program):
    """Nanoseconds that a program has taken so far, and how often it ran, while the kernel accounted for it."""
    fd = descriptor(program)
    try:
        lines = shown(f"/proc/self/fdinfo/{fd}")
    finally:
        os.close(fd)
    return int(lines["run_time_ns"]), int(lines["run_cnt"])


def descriptor(program):
    return call(PROG_GET_FD_BY_ID, bytearray(struct.pack("=III", program, 0, 0)))


def shown(file):
    """What the kernel shows of a descriptor."""
    return dict(line.split(":\t", 1) for line in Path(file).read_text().splitlines() if ":\t" in line)


def call(command, attributes):
    """Calls bpf(2)."""
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(NUMBERS[os.uname().machine], command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}: {os.strerror(ctypes.get_errno())}")
    return result
