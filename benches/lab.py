"""What the measurements stand on: a switch, a host and a sender in namespaces, and containers."""

import ctypes
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 45, 46
SO_TIMESTAMPNS = 35
# Where streams come from.
SOURCE = "10.98.200.1"
SOURCE_IPV6 = "fd00:98::c801"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


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


def wait_until(what, condition, limit=20, pause=0.01):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(pause)


def wait_until_usable(*ip, link="mc0"):
    """Waits until an interface has an address of IPv6, and each of them can be used; `ip` is how ip(8) is called
    where the interface is."""
    def usable():
        [shown, *_] = json.loads(run(*ip, "-j", "-6", "addr", "show", "dev", link)) or [{}]
        addresses = shown.get("addr_info", [])
        return addresses and not any(address.get("tentative") for address in addresses)
    wait_until(f"{link} has addresses", usable)


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


median = statistics.median


class Unable(Exception):
    """A peer cannot run here; the text says why."""


def need(program):
    """The path of a peer's program."""
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/cni")
    if not found:
        raise Unable(f"{program} is not installed")
    return found


class Context:
    """What every section is given: mcrun's programs, and a directory of its own."""

    def __init__(self, binaries, directory):
        self.binaries, self.directory = binaries, directory

    def program(self, name):
        return str(self.binaries / name)


class Facility:
    """A snooping switch that asks every 125 s, a host on one of its ports and a sender on another.

    The host's port gets nothing that was not joined, and forgets a group with its first leave. The versions are
    those of IGMP and MLD in which the switch asks."""

    counter = 0

    def __init__(self, version, flood=False, mld=2):
        Facility.counter += 1
        prefix = f"mcrun-bench-{os.getpid()}-{Facility.counter}"
        self.switch, self.host, self.source = (f"{prefix}-{node}" for node in ("sw", "host", "src"))
        self.version, self.flood, self.mld = version, flood, mld

    def __enter__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for name in (self.switch, self.host, self.source):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        sw = ("ip", "-n", self.switch)
        run(*sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "1",
            "mcast_igmp_version", str(self.version), "mcast_mld_version", str(self.mld),
            "mcast_query_use_ifaddr", "1",
            "mcast_hash_max", "32768", "mcast_query_response_interval", "50",
            "mcast_startup_query_interval", "12500")
        run(*sw, "addr", "add", "10.98.0.1/16", "dev", "br0")
        for port, node in (("port", self.host), ("feed", self.source)):
            run(*sw, "link", "add", port, "type", "veth", "peer", "name", "lan", "netns", node)
            run(*sw, "link", "set", port, "master", "br0", "up")
        run(*sw, "link", "set", "br0", "up")
        run("nsenter", f"--net={self.path(self.switch)}", "bridge", "link", "set", "dev", "port",
            "fastleave", "on", "mcast_flood", "on" if self.flood else "off")
        for node, address in ((self.host, "10.98.0.2"), (self.source, SOURCE)):
            run("ip", "-n", node, "link", "set", "lan", "up")
            run("ip", "-n", node, "addr", "add", f"{address}/16", "dev", "lan")
            run("ip", "-n", node, "route", "add", "224.0.0.0/4", "dev", "lan")
            wait_until("the link is up",
                       lambda: "state UP" in run("ip", "-n", node, "link", "show", "lan"))
        run("ip", "-n", self.source, "addr", "add", f"{SOURCE_IPV6}/64", "dev", "lan", "nodad")
        self.query()
        # A bridge takes itself for the querier when the response interval is over.
        time.sleep(0.6)

    def use_ipv6(self):
        """Waits until all can use their addresses of IPv6: a bridge without one does not ask."""
        for node, link in ((self.switch, "br0"), (self.host, "lan"), (self.source, "lan")):
            wait_until_usable("ip", "-n", node, link=link)
        self.query()
        time.sleep(0.6)

    def query(self):
        """Makes the switch ask now, so that everybody knows its version."""
        for value in ("0", "1"):
            run("ip", "-n", self.switch, "link", "set", "br0", "type", "bridge", "mcast_querier", value)

    def path(self, name):
        return f"/var/run/netns/{name}"

    def enter_host(self):
        enter(self.path(self.host))

    def __exit__(self, *_):
        LIBC.setns(self.home, CLONE_NEWNET)
        os.close(self.home)
        for name in (self.switch, self.host, self.source):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Containers:
    """Processes in network namespaces of their own, as a runtime would hand them to the hook."""

    def __init__(self, facility, context, name):
        self.facility, self.context = facility, context
        base = context.directory / name
        base.mkdir()
        self.state, self.bundle = base / "state", base / "bundle"
        self.environment = {**ENVIRONMENT, "MCRUN_STATE_DIR": str(self.state),
                            "MCRUN_CONFIG_DIR": str(base / "config")}
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text("{}")
        self.pids = []

    def __enter__(self):
        return self

    def start(self):
        """A process that sleeps, in a network namespace of its own; its id."""
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if LIBC.unshare(CLONE_NEWNET) == 0:
                    os.write(told, b"x")
                os.execv("/bin/sleep", ["sleep", "900"])
            finally:
                os._exit(1)
        os.close(told)
        self.pids.append(pid)
        with open(ready, "rb") as pipe:
            if not pipe.read(1):
                raise OSError("cannot make a network namespace")
        return pid

    def spec(self, number, more=""):
        return f"parent=lan,ip=10.98.{1 + number // 200}.{1 + number % 200}/16{more}"

    def begin(self, stage, number, pid, spec=None):
        """Starts the hook."""
        annotations = {"io.mcrun.mcast": spec} if spec else {}
        state = {"id": f"bench{number}", "pid": pid, "bundle": str(self.bundle),
                 "annotations": annotations}
        hook = subprocess.Popen([self.context.program("mcrun-hook"), stage], stdin=subprocess.PIPE,
                                env=self.environment)
        hook.stdin.write(json.dumps(state).encode())
        hook.stdin.close()
        return hook

    def call(self, stage, number, pid, spec=None):
        """Calls the hook; how long it took, in milliseconds."""
        start = time.perf_counter()
        hook = self.begin(stage, number, pid, spec)
        if hook.wait() != 0:
            raise RuntimeError(f"mcrun-hook {stage} failed")
        return (time.perf_counter() - start) * 1000

    def attach(self, number, pid, more=""):
        """Attaches a container, in the host's namespace; how long it took, in milliseconds."""
        return self.call("createRuntime", number, pid, self.spec(number, more))

    def mcrun(self, *words):
        """What a command of mcrun prints."""
        answer = subprocess.run([self.context.program("mcrun"), *words], check=True,
                                env=self.environment, capture_output=True, text=True)
        return answer.stdout

    def proxies(self):
        """Process ids of the proxies."""
        records = self.state.glob("containers/*/record.json")
        return [json.loads(record.read_text())["proxy"]["pid"] for record in records]

    def bare(self, number, pid):
        """Gives a container what people make without mcrun: a macvlan link with an address of either family."""
        host = self.facility.path(self.facility.host)
        run("nsenter", f"--net={host}", "ip", "link", "add", "link", "lan", "name", f"bare{number}",
            "type", "macvlan", "mode", "bridge")
        run("nsenter", f"--net={host}", "ip", "link", "set", f"bare{number}", "netns", str(pid))
        inside = ("nsenter", "--target", str(pid), "--net", "ip")
        run(*inside, "link", "set", f"bare{number}", "name", "mc0")
        run(*inside, "addr", "add", f"10.98.{100 + number // 200}.{1 + number % 200}/16", "dev", "mc0")
        run(*inside, "link", "set", "mc0", "up")
        run(*inside, "addr", "add", f"fd00:98::b:{1 + number:x}/64", "dev", "mc0", "nodad")
        run(*inside, "route", "add", "224.0.0.0/4", "dev", "mc0")

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.pids.remove(pid)

    def __exit__(self, *_):
        """Ends all, and waits until the proxies have ended too."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids = []
        left = lambda: list(self.state.glob("containers/*/record.json"))
        wait_until("the proxies have ended", lambda: not left(), limit=60)


def of_container(pid):
    return f"/proc/{pid}/ns/net"


def pss(pids):
    """Mean proportional set size of processes, in KiB."""
    sizes = []
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                sizes.append(int(line.split()[1]))
    return statistics.mean(sizes)


def processor_time(pids):
    """Time on a processor of all these processes until now, in milliseconds."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e6


def family_of(address):
    """The address family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def level_of(member):
    """The level of a socket's options of IP."""
    return socket.IPPROTO_IPV6 if member.family == socket.AF_INET6 else socket.IPPROTO_IP


def joining(interface, group, source=None):
    """The socket option, and its value, that joins a group, or one source of it, on the interface with
    this index."""
    def address(ip):
        if family_of(ip) == socket.AF_INET:
            return struct.pack("=H2x4s120x", socket.AF_INET, socket.inet_aton(ip))
        return struct.pack("=H6x16s104x", socket.AF_INET6, socket.inet_pton(socket.AF_INET6, ip))

    request = struct.pack("=I4x", interface) + address(group)
    if source:
        return MCAST_JOIN_SOURCE_GROUP, request + address(source)
    return MCAST_JOIN_GROUP, request


def join(member, interface, group, source=None):
    """Joins a group, or one source of it, on the interface with this index."""
    member.setsockopt(level_of(member), *joining(interface, group, source))


def prepared(member, option, value):
    """A call that sets an option of the IP level, and next to nothing else: Python's own finds out by an error
    of its own, which takes it some 25 us, that a value is no number."""
    buffer, length, fd = ctypes.create_string_buffer(value, len(value)), len(value), member.fileno()
    level = level_of(member)

    def call():
        if LIBC.setsockopt(fd, level, option, buffer, length) != 0:
            raise OSError(ctypes.get_errno(), f"setsockopt {option}")

    return call


def stamp(receiver):
    """Has the kernel note when each packet of a socket arrives."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def arrival(ancillary):
    """When a packet arrived, in seconds since 1970, from what came with it."""
    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
    return seconds + nanoseconds / 1e9
