"""IGMP and MLD as they leave the host: at the switch port, with the kernel's time stamps."""

import socket
import struct

from lab import arrival, enter, stamp

ETH_P_ALL = 3
RECEIVE_BUFFER = 16 << 20
SO_RCVBUFFORCE = 33


def changes(frame):
    """What a frame says of groups: pairs of "join" or "leave" and the group."""
    return of_igmp(frame) or of_mld(frame)


def of_igmp(frame):
    if frame[12:14] != b"\x08\x00" or frame[23] != 2:
        return []
    message = frame[14 + (frame[14] & 15) * 4:]
    kind = message[0]
    if kind in (0x12, 0x16):
        return [("join", socket.inet_ntoa(message[4:8]))]
    if kind == 0x17:
        return [("leave", socket.inet_ntoa(message[4:8]))]
    found = []
    if kind == 0x22:
        at = 8
        for _ in range(struct.unpack(">H", message[6:8])[0]):
            record, words, sources, group = struct.unpack(">BBH4s", message[at:at + 8])
            at += 8 + 4 * sources + 4 * words
            found.append((change(record, sources), socket.inet_ntoa(group)))
    return found


def of_mld(frame):
    # Behind the header of IPv6 comes that with Router Alert, of 8 bytes, and then ICMPv6.
    if frame[12:14] != b"\x86\xdd" or frame[20] != 0 or frame[54] != 58:
        return []
    address = lambda at: socket.inet_ntop(socket.AF_INET6, message[at:at + 16])
    message = frame[62:]
    kind = message[0]
    if kind in (131, 132):
        return [("join" if kind == 131 else "leave", address(8))]
    found = []
    if kind == 143:
        at = 8
        for _ in range(struct.unpack(">H", message[6:8])[0]):
            record, words, sources = struct.unpack(">BBH", message[at:at + 4])
            found.append((change(record, sources), address(at + 4)))
            at += 20 + 16 * sources + 4 * words
    return found


def change(record, sources):
    """Whether a record of so many sources joins or leaves: an INCLUDE without sources, and a BLOCK, take something
    away (RFC 9776 section 4.2.12, RFC 9777 section 5.2.12)."""
    return "leave" if record == 6 or record in (1, 3) and sources == 0 else "join"


class Port:
    """The switch port of the host."""

    def __init__(self, facility):
        enter(facility.path(facility.switch))
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind(("port", ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        stamp(self.socket)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def drain(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(2048)
        except BlockingIOError:
            pass

    def wait_for(self, kind, group, limit=3):
        """The time at which a "join" or "leave" of the group is first seen, in seconds since 1970."""
        self.socket.settimeout(limit)
        while True:
            frame, ancillary, _, _ = self.socket.recvmsg(2048, 256)
            if (kind, group) in changes(frame):
                return arrival(ancillary)

    def joins_until_quiet(self, quiet):
        """Groups that were reported until there was nothing for so many seconds."""
        groups = set()
        self.socket.settimeout(quiet)
        try:
            while True:
                frame, _, _, address = self.socket.recvmsg(2048, 256)
                groups.update(group for kind, group in changes(frame) if kind == "join")
        except TimeoutError:
            return groups
