"""From a join to the switch port and to the first packet, from one stream to the next, and from a leave to the
switch port.

mcrun, a receiver on the host itself and one in a bare macvlan take turns.
"""

import os
import random
import socket
import struct
import subprocess
import sys
import time

from igmp import Port
from lab import (MCAST_LEAVE_GROUP, SOURCE, SOURCE_IPV6, Containers, Facility, arrival, enter, family_of, join,
                 joining, median, of_container, percentile, prepared, stamp, wait_until_usable)
from table import Row

JOINS, PACKETS, LEAVES = 40, 25, 25
# What is joined: the beginning of a group, and the only source.
KINDS = (("any source", "239.", None), ("one source", "232.", SOURCE))
MLD_KINDS = (("any source", "ff0e::", None), ("one source", "ff3e::8000:", SOURCE_IPV6))
UDP_PORT = 5005


def rows(context):
    for version in (2, 3):
        with Facility(version) as facility, Containers(facility, context, f"joins{version}") as all_:
            facility.enter_host()
            ours, bare = all_.start(), all_.start()
            all_.attach(0, ours)
            all_.bare(0, bare)
            where = {
                "mcrun": (of_container(ours), "mc0"),
                "bare host": (facility.path(facility.host), "lan"),
                "bare macvlan": (of_container(bare), "mc0"),
            }
            facility.query()
            time.sleep(0.6)
            yield from to_wire(facility, where, f"IGMPv{version}")
            yield from to_packet(facility, where, version)
            yield from zap(facility, where, version)
            yield from leave_to_wire(facility, where, f"IGMPv{version}")


def mld_rows(context):
    for version in (1, 2):
        with Facility(3, mld=version) as facility, Containers(facility, context, f"mld{version}") as all_:
            facility.enter_host()
            ours, bare = all_.start(), all_.start()
            all_.attach(0, ours, ",ip=fd00:98::a:1/64")
            all_.bare(0, bare)
            for pid in (ours, bare):
                wait_until_usable("nsenter", "--target", str(pid), "--net", "ip")
            where = {
                "mcrun": (of_container(ours), "mc0"),
                "bare host": (facility.path(facility.host), "lan"),
                "bare macvlan": (of_container(bare), "mc0"),
            }
            facility.use_ipv6()
            yield from to_wire(facility, where, f"MLDv{version}", MLD_KINDS)
            yield from leave_to_wire(facility, where, f"MLDv{version}", MLD_KINDS)


def compare(name, times):
    for peer in ("bare host", "bare macvlan"):
        yield Row(f"{name} p50", "ms", median(times["mcrun"]), peer, median(times[peer]),
                  brief=peer == "bare macvlan")
    # The tail beside the more usual of both.
    tail = {who: percentile(values, 0.95) for who, values in times.items()}
    yield Row(f"{name} p95", "ms", tail["mcrun"], "bare macvlan", tail["bare macvlan"])


def turns(where, prefix, count):
    """Who is next, where, and with which group, that nobody had before."""
    for number in range(count):
        for position, (who, (namespace, interface)) in enumerate(where.items()):
            enter(namespace)
            yield who, socket.if_nametoindex(interface), group_of(prefix, position, number + 1)


def group_of(prefix, *numbers):
    """A group that begins so, as text of the kernel's kind."""
    if ":" not in prefix:
        return ".".join([prefix, *map(str, numbers)])
    text = ":".join([prefix, *(f"{number:x}" for number in numbers)])
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text))


def apart(seconds):
    """Waits, and for a random time more: what comes next falls anywhere between two ticks of the
    kernel, whose own reports wait for these, and between two packets of a stream."""
    time.sleep(seconds + random.uniform(0, 0.01))


def opened(group):
    """A socket as receivers open one."""
    receiver = socket.socket(family_of(group), socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    receiver.bind((group, UDP_PORT))
    receiver.settimeout(3)
    return receiver


def made(receiver, *options):
    """Sets options, given with their values; the time just before."""
    calls = [prepared(receiver, option, value) for option, value in options]
    # What a program does before, so that the time is the kernel's and not the interpreter's.
    hops = socket.IP_MULTICAST_TTL if receiver.family == socket.AF_INET else socket.IPV6_MULTICAST_HOPS
    prepared(receiver, hops, struct.pack("i", 1))()
    start = time.clock_gettime(time.CLOCK_REALTIME)
    for call in calls:
        call()
    return start


def to_wire(facility, where, protocol, kinds=KINDS):
    with Port(facility) as port:
        for kind, prefix, source in kinds:
            times = {who: [] for who in where}
            for who, index, group in turns(where, f"{prefix}1", JOINS):
                port.drain()
                with opened(group) as receiver:
                    start = made(receiver, joining(index, group, source))
                    times[who].append((port.wait_for("join", group) - start) * 1000)
                apart(0.02)
            yield from compare(f"join to switch port, {kind}, {protocol}", times)


def leave_to_wire(facility, where, protocol, kinds=KINDS):
    with Port(facility) as port:
        times = {who: [] for who in where}
        _, prefix, _ = kinds[0]
        for who, index, group in turns(where, f"{prefix}3", LEAVES):
            receiver = socket.socket(family_of(group), socket.SOCK_DGRAM)
            join(receiver, index, group)
            # All have said what they had to say of the join.
            apart(0.06)
            port.drain()
            start = time.clock_gettime(time.CLOCK_REALTIME)
            receiver.close()
            times[who].append((port.wait_for("leave", group) - start) * 1000)
        yield from compare(f"last leave to switch port, {protocol}", times)


def to_packet(facility, where, version):
    with Sender(facility) as sender:
        for kind, prefix, source in KINDS:
            times = {who: [] for who in where}
            for who, index, group in turns(where, f"{prefix}2", PACKETS):
                sender.stream(group)
                # The stream flows.
                apart(0.001)
                with opened(group) as receiver:
                    stamp(receiver)
                    start = made(receiver, joining(index, group, source))
                    _, ancillary, _, _ = receiver.recvmsg(64, 256)
                    times[who].append((arrival(ancillary) - start) * 1000)
            yield from compare(f"join to first packet, {kind}, IGMPv{version}", times)


def zap(facility, where, version):
    """From one stream to another, as a viewer's set does it: leave, and join."""
    with Sender(facility) as sender:
        times = {who: [] for who in where}
        for who, index, group in turns(where, "239.4", PACKETS):
            with opened(group) as receiver:
                stamp(receiver)
                earlier = f"239.5.{group.split('.', 2)[2]}"
                join(receiver, index, earlier)
                sender.stream(group)
                # What the first join had to say is said.
                apart(0.06)
                _, earlier_request = joining(index, earlier)
                start = made(receiver, (MCAST_LEAVE_GROUP, earlier_request), joining(index, group))
                _, ancillary, _, _ = receiver.recvmsg(64, 256)
                times[who].append((arrival(ancillary) - start) * 1000)
        yield from compare(f"zap to first packet, IGMPv{version}", times)


class Sender:
    """A stream to one group after the other, from the sender's namespace. It is as dense as the sender can
    make it: the time from one packet to the next is no part of what is measured."""

    def __init__(self, facility):
        self.process = subprocess.Popen(
            ["nsenter", f"--net={facility.path(facility.source)}", sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def stream(self, group):
        """Streams to this group from now on; it flows when this returns."""
        self.process.stdin.write(socket.inet_aton(group))
        self.process.stdin.flush()
        if not self.process.stdout.read(1):
            raise RuntimeError("the sender has ended")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def send():
    """The sender's process: the groups come on its standard input, and it answers each at once."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    os.set_blocking(0, False)
    group = None
    while True:
        try:
            asked = os.read(0, 4)
        except BlockingIOError:
            asked = None
        if asked == b"":
            return
        if asked:
            group = socket.inet_ntoa(asked)
        if group:
            stream.sendto(b"x" * 32, (group, UDP_PORT))
        if asked:
            os.write(1, b"x")


if __name__ == "__main__":
    send()
