"""The ways for multicast into a container: mcrun's relay, what else relays, and those that need no relay."""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bpf import Least
from lab import (ENVIRONMENT, Containers, Facility, Unable, enter, family_of, join, median, need, of_container,
                 processor_time, pss, run, wait_until, wait_until_usable)
from sender import Sender

# Of either address family.
GROUP, GROUP_IPV6 = "239.6.0.1", "ff0e::6:1"
# To which mcrun probe sends.
PORT = 5004
SECONDS = 1
# Seconds between the batches of a stream whose cost is measured. A pause takes time, and at the highest rates there is
# none: with many pauses, few packets would be dearer.
PERIOD = 0.002
# Packets that wait for a relay; its receive buffer has room for somewhat more.
BURST = 10_000
# Of the directories of containers so far.
NAMES = []
SOURCE = Path(__file__).resolve().parent / "relay_loop.c"


def in_turns(paths, rounds, measure):
    """The results of each, in turns, so that a busy machine is busy for all."""
    found = {kind: [] for kind in paths}
    for _ in range(rounds):
        for kind, way in paths.items():
            found[kind].append(measure(way))
    return found


def kernel_threads():
    """Process ids of the kernel's threads that take packets from those who would take too long for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text()
        except OSError:
            # It has ended meanwhile.
            continue
        if name.startswith("ksoftirqd/"):
            found.append(int(process.name))
    return found


class Result:
    """What became of one stream."""

    def __init__(self, sent, received, rate, busy):
        self.rate = rate
        # In percent.
        self.lost = max(0.0, 100 * (1 - received / sent))
        # Microseconds of the relay for each packet that came out of it.
        self.cost = 1000 * busy / received if received else 0.0


@dataclass
class Carried:
    """What a stream to containers that do not read has cost."""

    sent: int
    # Packets that the containers' kernels have received, all together.
    arrived: int
    # Milliseconds of a processor of all who have to do with it: of the sender, in whose time the kernel takes a packet
    # as far as a socket, of the relays, and of the kernel's own threads.
    spent: float


class Way:
    """A way for multicast into a receiver, on a LAN of its own."""

    def __init__(self, context, kind, count=1, ipv6=False):
        self.context, self.kind, self.count, self.ipv6 = context, kind, count, ipv6
        self.group = GROUP_IPV6 if ipv6 else GROUP
        self.stack = ExitStack()
        # Processes that relay, the places of the other containers, the programs to compare with.
        self.relays, self.others, self.programs = [], [], []
        cores = sorted(os.sched_getaffinity(0))
        # The receiver is last: it wants most, and least of the caches of the others.
        self.sending, self.relaying, self.receiving = (cores[min(n, len(cores) - 1)] for n in range(3))

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def build(self):
        program = compiled(self.context) if self.kind == "C loop" else None
        self.facility = self.stack.enter_context(Facility(3))
        self.facility.enter_host()
        # Where streams come from and go to: a namespace and an interface.
        self.lan = self.facility.path(self.facility.source), "lan"
        if self.kind == "bare host":
            self.inside = self.facility.path(self.facility.host), "lan"
            return
        name = f"relay-{self.kind}-{self.count}-{len(NAMES)}".replace(" ", "-").lower()
        NAMES.append(name)
        self.containers = self.stack.enter_context(Containers(self.facility, self.context, name))
        if self.kind == "proxy":
            config = Path(self.containers.environment["MCRUN_CONFIG_DIR"])
            config.mkdir(exist_ok=True)
            (config / "mcrun.toml").write_text("[relay]\nbpf = false\n")
        link = "mc0" if self.kind == "macvlan" else "eth0"
        for number in range(self.count):
            pid = self.containers.start()
            if self.kind != "macvlan":
                bridge(self.facility, pid, number)
            self.connect(number, pid, program)
            self.others.append((of_container(pid), link))
        self.inside = self.others.pop(0)
        if self.kind == "proxy":
            self.relays = self.containers.proxies()
        elif self.kind == "nft dup":
            duplicate(self.group, self.count)
            self.join()
        elif self.kind == "copies":
            peers = [socket.if_nametoindex(f"v{number}") for number in range(self.count)]
            # The second one does nothing: the time that it takes is that of taking the time.
            for targets in (peers, ()):
                self.programs.append(Least("lan", targets))
                self.stack.callback(self.programs[-1].close)
            self.join()
        # Several have the processors that there are.
        for relay in self.relays if self.count == 1 else ():
            os.sched_setaffinity(relay, {self.relaying})
        if self.ipv6:
            wait_until_usable("nsenter", f"--net={self.inside[0]}", "ip", link="eth0")
            self.facility.use_ipv6()
        else:
            self.facility.query()
            time.sleep(0.6)

    def connect(self, number, pid, program):
        """Has a container get what it joins."""
        if self.kind == "macvlan":
            self.containers.attach(number, pid)
        elif self.kind in ("kernel", "proxy"):
            spec = "parent=lan,driver=relay" + (",ipv6=on" if self.ipv6 else "")
            self.containers.call("createRuntime", number, pid, spec)
        elif program:
            loop = subprocess.Popen([program, of_container(pid), "lan", "eth0", self.group])
            self.stack.callback(lambda: (loop.kill(), loop.wait()))
            self.relays.append(loop.pid)

    def join(self):
        """Has the host join the group, as relays do, and receive nothing of it."""
        member = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        # IP_MULTICAST_ALL
        member.setsockopt(socket.IPPROTO_IP, 49, 0)
        join(member, socket.if_nametoindex("lan"), self.group)

    def memory(self):
        """PSS of the proxy, in KiB."""
        return pss(self.containers.proxies())

    def arrived(self):
        """Multicast packets that the containers' kernels have received, all together."""
        return sum(multicast_packets(pid) for pid in self.containers.pids) if self.kind != "bare host" else 0

    def stream(self, size, rate):
        """Sends for a while, and tells what became of it."""
        receiver = self.receiver(self.inside)
        try:
            before = processor_time(self.relays)
            sent = self.send(self.lan, size, "--rate", str(rate), "--duration", f"{SECONDS}s")
            # What the buffers hold comes too.
            time.sleep(0.4)
            busy = processor_time(self.relays) - before
        finally:
            received, rate = ended(receiver)
        return Result(sent, received, rate, busy)

    def carry(self, size, rate, seconds):
        """Sends for so many seconds to all containers, and tells what it has cost."""
        own, threads = os.sched_getaffinity(0), kernel_threads()
        batch = round(rate * PERIOD)
        with self.members(), closing(Sender(self.lan[0], self.group, PORT, size, batch)) as sender:
            before, arrived = processor_time(self.relays + threads), self.arrived()
            os.sched_setaffinity(0, {self.sending})
            try:
                sent, spent = sender.stream(PERIOD, seconds)
            finally:
                os.sched_setaffinity(0, own)
            # What the buffers hold comes too.
            time.sleep(0.4)
            spent += processor_time(self.relays + threads) - before
            return Carried(sent, self.arrived() - arrived, spent)

    @contextmanager
    def members(self):
        """All containers have joined meanwhile, and do not read. There is next to no room for packets that wait, so
        that the kernel does for one what it does for a reader who is quick, but for the copy."""
        with ExitStack() as stack:
            for namespace, interface in (self.inside, *self.others):
                enter(namespace)
                member = stack.enter_context(socket.socket(family_of(self.group), socket.SOCK_DGRAM))
                member.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
                member.bind(("", PORT))
                join(member, socket.if_nametoindex(interface), self.group)
            self.facility.enter_host()
            self.wait_for_switch()
            yield

    def burst(self, size, outward=False):
        """Lets packets from the LAN, or to it, wait, and then the relay work on nothing else."""
        source, target = (self.inside, self.lan) if outward else (self.lan, self.inside)
        receiver = self.receiver(target)
        try:
            # It would take part of the relay's time by preempting it.
            receiver.send_signal(signal.SIGSTOP)
            for relay in self.relays:
                os.kill(relay, signal.SIGSTOP)
            try:
                sent = self.send(source, size, "--rate", str(BURST * 10), "--count", str(BURST))
                before = processor_time(self.relays)
            finally:
                for relay in self.relays:
                    os.kill(relay, signal.SIGCONT)
            self.settle(before)
            busy = processor_time(self.relays) - before
        finally:
            receiver.send_signal(signal.SIGCONT)
            received, rate = ended(receiver)
        return Result(sent, received, rate, busy)

    def settle(self, before):
        """Waits until the relay has worked, and has nothing more to do."""
        seen = []

        def quiet():
            seen.append(processor_time(self.relays))
            return seen[-1] > before + 1 and seen[-1] == seen[max(0, len(seen) - 30)] and len(seen) > 30
        wait_until("the relay is done", quiet)

    def receiver(self, place):
        """Receives from now on."""
        receiver = self.probe(place, self.receiving, "recv", "--interval", "0.1s", "--duration", "60s")
        try:
            wait_until("the receiver has joined", lambda: joined(receiver.pid, self.group))
            self.wait_for_switch()
        except BaseException:
            receiver.kill()
            receiver.communicate()
            raise
        return receiver

    def wait_for_switch(self):
        """Waits until what is sent gets to the host."""
        mdb = ("nsenter", f"--net={self.facility.path(self.facility.switch)}", "bridge", "mdb", "show")
        wait_until("the switch forwards", lambda: self.group in run(*mdb))
        time.sleep(0.1)

    def send(self, place, size, *words):
        """Sends, and tells how many packets."""
        sender = self.probe(place, self.sending, "send", "--size", str(size), *words)
        report = json.loads(sender.communicate()[0].splitlines()[-1])
        return sum(group["packets"] for group in report["groups"])

    def probe(self, place, core, what, *words):
        namespace, interface = place
        probe = [self.context.program("mcrun"), "probe", what, self.group, "-i", interface, "--json", *words]
        return subprocess.Popen(["taskset", "--cpu-list", str(core), "nsenter", f"--net={namespace}", *probe],
                                stdout=subprocess.PIPE, env=ENVIRONMENT, text=True)


def duplicate(group, count):
    """Has the host's kernel hand a copy of what arrives at `lan` for the group to so many containers, by rules, which
    only who may administer the network can change."""
    rules = "\n".join(f"ip daddr {group} dup to v{number}" for number in range(count))
    chain = f"type filter hook ingress device lan priority 0\n{rules}"
    done = subprocess.run([need("nft"), "-f", "-"], input=f"table netdev bench {{\nchain copies {{\n{chain}\n}}\n}}\n",
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise Unable(f"nft: {(done.stderr.strip().splitlines() or ['failed'])[0]}")


def multicast_packets(pid):
    """Packets to groups that the kernel of a process's network namespace has received."""
    names, values = (line.split() for line in Path(f"/proc/{pid}/net/netstat").read_text().splitlines()
                     if line.startswith("IpExt:"))
    return int(dict(zip(names, values))["InMcastPkts"])


def ended(receiver):
    """How many packets came, and how many in a second while they came."""
    def taken():
        files = (Path(f"/proc/{receiver.pid}/net/{name}") for name in ("udp", "udp6"))
        sockets = [line for file in files for line in file.read_text().splitlines()[1:]]
        # Bytes to be sent and received.
        return all(socket.split()[4].endswith(":00000000") for socket in sockets)
    wait_until("the receiver has taken what waits", taken)
    receiver.send_signal(signal.SIGINT)
    lines = [json.loads(line) for line in receiver.communicate()[0].splitlines()]
    result = lines.pop()
    each = [sum(group["packets"] for group in line["groups"]) for line in lines]
    # The first and the last interval are not full.
    full = [count for count in each if count][1:-1]
    return result["packets"], 10 * median(full) if full else 0.0


def bridge(facility, pid, number=0):
    """Gives a container `eth0` on a bridge of the host, as engines do."""
    host, inside = ("ip", "-n", facility.host), ("nsenter", "--target", str(pid), "--net", "ip")
    if number == 0:
        run(*host, "link", "add", "engine0", "type", "bridge")
        run(*host, "addr", "add", "172.30.0.1/24", "dev", "engine0")
        run(*host, "link", "set", "engine0", "up")
    run(*host, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run(*host, "link", "set", f"v{number}", "master", "engine0", "up")
    run(*inside, "addr", "add", f"172.30.0.{10 + number}/24", "dev", "eth0")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "link", "set", "eth0", "up")
    run(*inside, "route", "add", "default", "via", "172.30.0.1")


def compiled(context):
    """The loop in C."""
    program = context.directory / "relay_loop"
    done = subprocess.run([need("gcc"), "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Unable(f"gcc: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
    return str(program)


def joined(pid, group):
    if ":" in group:
        number = socket.inet_pton(socket.AF_INET6, group).hex()
        return number in Path(f"/proc/{pid}/net/igmp6").read_text()
    number = "{:08X}".format(int.from_bytes(socket.inet_aton(group), "little"))
    return number in Path(f"/proc/{pid}/net/igmp").read_text()
