"""What a packet costs that a container sends: through the rules that limit what leaves it, beside a bare
macvlan link, which has none.

Both send bursts by sendmmsg(2) in turns, so that a busy machine is busy for both, and next to none of the time
is the measuring program's.
"""

import ctypes
import os
import socket
import time

from lab import LIBC, Containers, Facility, enter, median, of_container
from table import Row

GROUP = "239.7.0.1"
SIZES = (64, 1316)
# Packets of one system call, calls of one burst, and bursts.
BATCH = 64
CALLS = 50
BURSTS = 201


class Vector(ctypes.Structure):
    """`struct iovec`."""
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """`struct mmsghdr`, of a connected socket."""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32),
                ("vectors", ctypes.POINTER(Vector)), ("vector_count", ctypes.c_size_t),
                ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("padding", ctypes.c_int), ("sent", ctypes.c_uint)]


class Sender:
    """A socket in a container that sends to a group of nobody."""

    def __init__(self, pid, size):
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            enter(of_container(pid))
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            enter(f"/proc/self/fd/{home}")
            os.close(home)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        self.socket.connect((GROUP, 5000))
        self.payload = ctypes.create_string_buffer(size)
        self.vector = Vector(ctypes.addressof(self.payload), size)
        one = Message(None, 0, ctypes.pointer(self.vector), 1, None, 0, 0, 0, 0)
        self.messages = (Message * BATCH)(*[one] * BATCH)

    def burst(self):
        """Nanoseconds of one packet."""
        fd, start = self.socket.fileno(), time.perf_counter_ns()
        for _ in range(CALLS):
            if LIBC.sendmmsg(fd, self.messages, BATCH, 0) != BATCH:
                raise OSError(ctypes.get_errno(), "sendmmsg")
        return (time.perf_counter_ns() - start) / (CALLS * BATCH)


def rows(context):
    with Facility(3) as facility, Containers(facility, context, "egress") as containers:
        facility.enter_host()
        limited, bare = containers.start(), containers.start()
        containers.attach(0, limited)
        containers.bare(1, bare)
        for size in SIZES:
            senders = Sender(limited, size), Sender(bare, size)
            found = [], []
            for _ in range(BURSTS):
                for sender, times in zip(senders, found):
                    times.append(sender.burst())
            mcrun, other = (median(times) / 1000 for times in found)
            share = 100 * (mcrun / other - 1)
            yield Row(f"a sent packet of {size} bytes", "us", mcrun, "bare macvlan", other,
                      f"the rules take {1000 * (mcrun - other):.0f} ns, {share:.1f} %", size == SIZES[-1])
