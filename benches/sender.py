"""Packets by sendmmsg(2), so that next to none of the time is the measuring program's."""

import ctypes
import os
import socket
import struct
import time

from lab import LIBC, enter

# As mcrun probe has it: RTP version 2, an MPEG transport stream.
RTP = struct.Struct("!BBHII")
VERSION, PAYLOAD_TYPE, SSRC = 0x80, 33, 0x6d637275
TTL = 16


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
    """A socket in a network namespace that sends RTP of so many bytes to a group, a batch by each system call."""

    def __init__(self, namespace, group, port, size, batch):
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            enter(namespace)
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            enter(f"/proc/self/fd/{home}")
            os.close(home)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        self.socket.connect((group, port))
        self.sequence = 0
        self.payloads = [ctypes.create_string_buffer(size) for _ in range(batch)]
        self.vectors = [Vector(ctypes.addressof(payload), size) for payload in self.payloads]
        one = [Message(None, 0, ctypes.pointer(vector), 1, None, 0, 0, 0, 0) for vector in self.vectors]
        self.messages = (Message * batch)(*one)

    def close(self):
        """Ends it."""
        self.socket.close()

    def number(self):
        """Gives the next batch the numbers that follow."""
        for payload in self.payloads:
            RTP.pack_into(payload, 0, VERSION, PAYLOAD_TYPE, self.sequence, 0, SSRC)
            self.sequence = self.sequence + 1 & 0xffff

    def send(self):
        """Sends a batch."""
        if LIBC.sendmmsg(self.socket.fileno(), self.messages, len(self.messages), 0) != len(self.messages):
            raise OSError(ctypes.get_errno(), "sendmmsg")

    def stream(self, period, seconds):
        """Sends a batch at each `period` for so many seconds, or one after the other if it cannot be that quick.
        Returns how many packets it sent, and the milliseconds of a processor in which it did nothing else: the kernel
        takes a packet in its sender's time as far as it can."""
        sent = spent = 0
        due = start = time.monotonic()
        while due < start + seconds:
            self.number()
            time.sleep(max(0.0, due - time.monotonic()))
            before = time.thread_time_ns()
            self.send()
            spent += time.thread_time_ns() - before
            sent += len(self.messages)
            due = max(due + period, time.monotonic() - period)
        return sent, spent / 1e6
