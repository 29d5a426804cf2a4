#!/usr/bin/env python3
"""What mcrun costs and gains, measured side by side in one run.

Prints a table of figure, mcrun, peer and ratio, and writes the same as JSON when a file is named.
It is a report, not a test: no time fails anything. Runs as root, in network namespaces of its own;
usage: bench.py DIRECTORY-OF-THE-BINARIES [JSON-FILE]
"""

import ctypes
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 46
SO_TIMESTAMPNS = 35
ETH_P_ALL = 3
CONTAINERS = 50
JOINS = 60


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def enter(namespace):
    """Moves this process, which has one thread, into a network namespace."""
    fd = os.open(namespace, os.O_RDONLY)
    try:
        if LIBC.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(fd)


def wait_until(what, condition, limit=10):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(0.01)


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


class Facility:
    """A snooping switch that asks, and a host on one of its ports."""

    def __init__(self, version):
        self.prefix = f"mcrun-bench-{os.getpid()}"
        self.switch, self.host = f"{self.prefix}-sw", f"{self.prefix}-host"
        self.version = version

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for name in (self.switch, self.host):
            run("ip", "netns", "add", name)
        sw, host = ("ip", "-n", self.switch), ("ip", "-n", self.host)
        run(*sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "1",
            "mcast_igmp_version", str(self.version), "mcast_query_use_ifaddr", "1",
            "mcast_query_interval", "2000", "mcast_startup_query_interval", "2000",
            "mcast_query_response_interval", "50")
        run(*sw, "addr", "add", "10.98.0.1/16", "dev", "br0")
        run(*sw, "link", "add", "port", "type", "veth", "peer", "name", "lan", "netns", self.host)
        for link in ("port", "br0"):
            if link == "port":
                run(*sw, "link", "set", link, "master", "br0")
            run(*sw, "link", "set", link, "up")
        run(*host, "link", "set", "lan", "up")
        run(*host, "addr", "add", "10.98.0.2/16", "dev", "lan")
        wait_until("the link is up", lambda: "state UP" in run(*host, "link", "show", "lan"))
        time.sleep(1)
        self.query()

    def query(self):
        """Makes the switch ask now, so that everybody knows its version."""
        for value in ("0", "1"):
            run("ip", "-n", self.switch, "link", "set", "br0", "type", "bridge", "mcast_querier", value)

    def path(self, name):
        return f"/var/run/netns/{name}"

    def __exit__(self, *_):
        for name in (self.switch, self.host):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Containers:
    """Processes in network namespaces of their own, as a runtime would hand them to the hook."""

    def __init__(self, facility, binaries, state):
        self.facility, self.hook = facility, str(binaries / "mcrun-hook")
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MCRUN_STATE_DIR": str(state)}
        self.bundle = state.parent / "bundle"
        self.bundle.mkdir(exist_ok=True)
        (self.bundle / "config.json").write_text("{}")
        self.processes = []

    def start(self):
        own = os.readlink("/proc/self/ns/net")
        process = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        self.processes.append(process)
        ns = f"/proc/{process.pid}/ns/net"
        comm = f"/proc/{process.pid}/comm"
        wait_until("the container is there",
                   lambda: os.readlink(ns) != own and Path(comm).read_text() == "sleep\n")
        return process.pid

    def call(self, stage, number, pid, spec):
        """Calls the hook; how long it took, in milliseconds."""
        annotations = {"io.mcrun.mcast": spec} if spec else {}
        state = {"id": f"bench{number}", "pid": pid, "bundle": str(self.bundle),
                 "annotations": annotations}
        start = time.perf_counter()
        subprocess.run([self.hook, stage], input=json.dumps(state).encode(), check=True,
                       env=self.environment)
        return (time.perf_counter() - start) * 1000

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []


def pss(pids):
    """Mean proportional set size of processes, in KiB."""
    sizes = []
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                sizes.append(int(line.split()[1]))
    return statistics.mean(sizes)


def proxies(state):
    records = state.glob("containers/*/record.json")
    return [json.loads(record.read_text())["proxy"]["pid"] for record in records]


def attach(facility, binaries, state, report):
    """Hook times, and the memory of the proxies."""
    containers = Containers(facility, binaries, state)
    try:
        pids = [containers.start() for _ in range(CONTAINERS)]
        enter(facility.path(facility.host))
        nothing = [containers.call("createRuntime", 0, pids[0], None) for _ in range(30)]
        floor = []
        for _ in range(30):
            start = time.perf_counter()
            subprocess.run(["/bin/true"], input=b"{}", check=True)
            floor.append((time.perf_counter() - start) * 1000)
        report("hook, nothing asked for (p50)", statistics.median(nothing), "ms",
               "/bin/true", statistics.median(floor))
        times = []
        for number, pid in enumerate(pids):
            spec = f"parent=lan,ip=10.98.{1 + number // 200}.{1 + number % 200}/16"
            times.append(containers.call("createRuntime", number, pid, spec))
            if number == 0:
                report("memory of the only proxy (PSS)", pss(proxies(state)), "KiB")
        report("attach (p50)", statistics.median(times), "ms")
        report("attach (p95)", percentile(times, 0.95), "ms")
        report(f"memory of each of {CONTAINERS} proxies (PSS)", pss(proxies(state)), "KiB")
        ended = []
        for number, pid in enumerate(pids):
            os.kill(pid, signal.SIGKILL)
            ended.append(containers.call("poststop", number, pid, None))
        report("detach (p50)", statistics.median(ended), "ms")
        report("detach (p95)", percentile(ended, 0.95), "ms")
    finally:
        containers.end()


class Port:
    """IGMP as it leaves the host: at the switch port, with the kernel's time stamps."""

    def __init__(self, facility):
        enter(facility.path(facility.switch))
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind(("port", ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def drain(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(2048)
        except BlockingIOError:
            pass
        self.socket.settimeout(2)

    def wait_for(self, group):
        """The time at which the group is first reported."""
        wanted = socket.inet_aton(group)
        while True:
            frame, ancillary, _, _ = self.socket.recvmsg(2048, 256)
            if frame[12:14] == b"\x08\x00" and frame[23] == 2 and wanted in frame[34:]:
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                return seconds + nanoseconds / 1e9


def join_times(port, namespace, interface, prefix):
    """From the system call of a join to its report on the switch port, in milliseconds."""
    enter(namespace)
    index = socket.if_nametoindex(interface)
    specific = prefix.startswith("232.")
    times = []
    for number in range(JOINS):
        group = f"{prefix}.{number + 1}"
        address = lambda ip: struct.pack("=H2x4s120x", socket.AF_INET, socket.inet_aton(ip))
        request = struct.pack("=I4x", index) + address(group)
        option = MCAST_JOIN_GROUP
        if specific:
            request += address("10.98.200.1")
            option = MCAST_JOIN_SOURCE_GROUP
        port.drain()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            start = time.clock_gettime(time.CLOCK_REALTIME)
            receiver.setsockopt(socket.IPPROTO_IP, option, request)
            times.append((port.wait_for(group) - start) * 1000)
        time.sleep(0.03)
    return times


def joins(facility, binaries, state, report):
    """Join to wire, beside a receiver on the host itself."""
    containers = Containers(facility, binaries, state)
    try:
        pid = containers.start()
        enter(facility.path(facility.host))
        containers.call("createRuntime", 0, pid, "parent=lan,ip=10.98.100.1/16")
        port = Port(facility)
        facility.query()
        time.sleep(0.5)
        for kind, prefix in (("any source", "239.9"), ("one source", "232.9")):
            bare = join_times(port, facility.path(facility.host), "lan", f"{prefix}.1")
            ours = join_times(port, f"/proc/{pid}/ns/net", "mc0", f"{prefix}.2")
            name = f"join to switch port, {kind}, IGMPv{facility.version}"
            for share in (0.5, 0.95):
                report(f"{name} (p{share * 100:.0f})", percentile(ours, share), "ms",
                       "bare host", percentile(bare, share))
        os.kill(pid, signal.SIGKILL)
        enter(facility.path(facility.host))
        containers.call("poststop", 0, pid, None)
    finally:
        containers.end()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binaries = Path(sys.argv[1]).absolute()
    rows = []

    def report(figure, value, unit, peer=None, other=None):
        ratio = other / value if other else None
        rows.append({"figure": figure, "mcrun": round(value, 3), "unit": unit, "peer": peer,
                     "value_of_peer": other and round(other, 3), "ratio": ratio and round(ratio, 2)})
        beside = f"{peer} {other:.2f} {unit}" if other else ""
        print(f"{figure:<52} {value:>9.2f} {unit:<4} {beside:<22} {ratio and f'{ratio:.1f} x' or ''}",
              flush=True)

    with tempfile.TemporaryDirectory(prefix="mcrun-bench-") as directory:
        for version, measures in ((2, (attach, joins)), (3, (joins,))):
            for measure in measures:
                with Facility(version) as facility:
                    state = Path(directory) / f"{measure.__name__}{version}" / "state"
                    state.parent.mkdir()
                    measure(facility, binaries, state, report)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
