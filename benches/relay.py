"""The relay beside the ways that need none, and beside the least that relays (relay_loop.c): what arrives of
a flood and of a steady stream, and what a packet costs.

The kernel relays, or the proxy does (`[relay] bpf = false`). The sender, a proxy that relays and the receiver
have a processor each where there are three, and with two the proxy shares its with the receiver. A packet's way
up to the proxy is the sender's processor time; putting it into the container's sockets is the proxy's, and is
in its figures.

How much a proxy can carry is measured by its own processor time for a burst that waits in its socket: full
batches, and neither the sender's speed nor other load is in it.

What the kernel does for a packet is in no process's time. So a steady stream is also measured by the
processor time of the whole machine, less that of the same stream to a receiver on the host; and the program
by what the kernel says of it (`kernel.bpf_stats_enabled`), which takes two looks at the clock for each packet.
"""

import ctypes
import json
import os
import socket
import struct
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from lab import (ENVIRONMENT, Containers, Facility, Unable, median, need, of_container, processor_time, pss,
                 run, wait_until, wait_until_usable)
from table import Row

# Of either address family.
GROUP, GROUP_IPV6 = "239.6.0.1", "ff0e::6:1"
# Of RTP payload: seven packets of an MPEG transport stream, and little.
SIZES = (1316, 64)
RATE = 50_000
FAST = 100_000
# More than any of these can do.
FLOOD = 2_000_000
SECONDS = 1
ROUNDS = 3
# Packets that wait for a relay; its receive buffer has room for somewhat more.
BURST = 10_000
BURSTS = 7
KINDS = ("kernel", "proxy", "C loop", "bare host", "macvlan")
# Relayed containers of one stream.
MANY = 8
# Of the directories of containers so far.
NAMES = []
SOURCE = Path(__file__).resolve().parent / "relay_loop.c"


def rows(context):
    with ExitStack() as stack:
        paths, unable = {}, {}
        for kind in KINDS:
            try:
                paths[kind] = stack.enter_context(Way(context, kind))
            except Unable as reason:
                unable[kind] = str(reason)
        idle = paths["proxy"].memory(), paths["macvlan"].memory()
        for size in SIZES:
            relays = {kind: way for kind, way in paths.items() if way.relays}
            yield capacity_row(size, in_turns(relays, BURSTS, lambda way: way.burst(size)), unable)
            outward = median([paths["proxy"].burst(size, outward=True).cost for _ in range(BURSTS)])
            yield Row(f"relay of {size} bytes to the LAN, by one processor", "k packets/s", 1000 / outward,
                      note=f"{outward:.2f} us")
            floods = in_turns(paths, ROUNDS, lambda way: way.stream(size, FLOOD))
            yield from flood_rows(size, floods, unable)
            yield from steady_rows(size, in_turns(paths, 1, lambda way: way.stream(size, RATE)), unable)
        yield from program_rows(paths["kernel"])
        yield from many_rows(context, paths["bare host"])
        yield Row("memory of a proxy that relays (PSS), idle", "KiB", idle[0],
                  "one that does not relay", idle[1])
        yield Row("memory of a proxy that relays (PSS), after floods", "KiB", paths["proxy"].memory(),
                  "one that does not relay", paths["macvlan"].memory())


def ipv6_rows(context):
    """What a packet of IPv6 costs beside one of IPv4, in turns."""
    with ExitStack() as stack:
        paths = {(kind, ipv6): stack.enter_context(Way(context, kind, ipv6=ipv6))
                 for kind in ("kernel", "proxy") for ipv6 in (True, False)}
        of = lambda kind, found: (median([r.cost for r in found[kind, ipv6]]) for ipv6 in (True, False))
        proxies = {key: way for key, way in paths.items() if key[0] == "proxy"}
        for size in SIZES:
            ours, other = of("proxy", in_turns(proxies, BURSTS, lambda way: way.burst(size)))
            yield Row(f"relay of {size} bytes of IPv6, by one processor", "k packets/s", 1000 / ours, "IPv4",
                      1000 / other, f"{ours:.2f} us, {other:.2f} us")
            ours, other = of("proxy", in_turns(proxies, BURSTS, lambda way: way.burst(size, outward=True)))
            yield Row(f"relay of {size} bytes of IPv6 to the LAN, by one processor", "k packets/s", 1000 / ours,
                      "IPv4", 1000 / other, f"{ours:.2f} us, {other:.2f} us")
            floods = in_turns(paths, ROUNDS, lambda way: way.stream(size, FLOOD))
            for kind in ("kernel", "proxy"):
                rate, lost = ({ipv6: median([getattr(r, what) for r in floods[kind, ipv6]]) for ipv6 in (True, False)}
                              for what in ("rate", "lost"))
                yield Row(f"flood of {size} bytes of IPv6, delivered by the {kind}", "k packets/s", rate[True] / 1000,
                          "IPv4", rate[False] / 1000, f"lost {lost[True]:.1f} %; {lost[False]:.1f} %")
        yield Row("the program that relays to one container, IPv6", "us a packet",
                  program_time(paths["kernel", True]), "IPv4", program_time(paths["kernel", False]))


def in_turns(paths, rounds, measure):
    """The results of each, in turns, so that a busy machine is busy for all."""
    found = {kind: [] for kind in paths}
    for _ in range(rounds):
        for kind, way in paths.items():
            found[kind].append(measure(way))
    return found


def capacity_row(size, found, unable):
    rate = {kind: 1000 / median([r.cost for r in list_]) for kind, list_ in found.items()}
    cost = ", ".join(f"{1000 / value:.2f} us" for value in rate.values())
    return Row(f"relay of {size} bytes, by one processor", "k packets/s", rate["proxy"], "C loop",
               rate.get("C loop"), unable.get("C loop", cost))


def flood_rows(size, found, unable):
    lost = {kind: median([r.lost for r in list_]) for kind, list_ in found.items()}
    rate = {kind: median([r.rate for r in list_]) / 1000 for kind, list_ in found.items()}
    for peer in KINDS[1:]:
        note = unable.get(peer) or f"lost {lost['kernel']:.1f} %; {lost[peer]:.1f} %"
        yield Row(f"flood of {size} bytes, delivered", "k packets/s", rate["kernel"], peer,
                  rate.get(peer), note)


def steady_rows(size, found, unable):
    what = f"{size} bytes at {RATE // 1000} k packets/s"
    for peer in KINDS[1:]:
        other = found[peer][0].lost if peer in found else None
        yield Row(f"{what}, lost", "%", found["kernel"][0].lost, peer, other, unable.get(peer, ""))
    cost = {kind: found[kind][0].cost for kind in ("proxy", "C loop") if kind in found}
    yield Row(f"{what}, a proxy's processor time", "us a packet", cost["proxy"], "C loop",
              cost.get("C loop"), unable.get("C loop", ""))


def program_rows(way):
    """What the program that relays to one container takes for a packet."""
    yield Row("the program that relays to one container", "us a packet", program_time(way), "limit of the design", 0.7)


def program_time(way):
    """The same in microseconds."""
    way.facility.enter_host()
    with ProgramTime() as program:
        way.stream(SIZES[0], RATE)
    return program.microseconds()


def many_rows(context, bare):
    """Processor time of the machine for the relay to one container and to several, whose programs read nothing
    meanwhile: they would take the processors."""
    for count in (1, MANY):
        cost, lost = {}, {}
        for kind in ("kernel", "proxy"):
            with Way(context, kind, count) as way:
                before = way.relayed()
                results = in_turns({"bare": bare, kind: way}, ROUNDS, lambda way: way.stream(SIZES[0], FAST, held=True))
                relayed = way.relayed() - before
            machine = {name: median([r.machine for r in list_]) for name, list_ in results.items()}
            cost[kind] = max(0.0, machine[kind] - machine["bare"]) / count
            sent = count * sum(r.sent for r in results[kind])
            lost[kind] = 100 * (1 - relayed / sent)
        note = f"not relayed {lost['kernel']:.2f} %; {lost['proxy']:.2f} %"
        yield Row(f"relay of {FAST // 1000} k packets/s to {count}, processor time of the machine",
                  "us a packet and container", cost["kernel"], "proxy", cost["proxy"], note)


class ProgramTime:
    """The time that the programs at the LAN interface of the current namespace take meanwhile: one for each address
    family that is relayed."""

    SETTING = Path("/proc/sys/kernel/bpf_stats_enabled")

    def __enter__(self):
        self.setting = self.SETTING.read_text()
        self.SETTING.write_text("1")
        self.before = self.read()
        return self

    def __exit__(self, *_):
        self.after = self.read()
        self.SETTING.write_text(self.setting)

    def microseconds(self):
        """Of one packet."""
        time_, runs = (after - before for before, after in zip(self.before, self.after))
        return time_ / runs / 1000 if runs else 0.0

    @staticmethod
    def read():
        """Nanoseconds of all programs there, and how often that ran which ran most, as the kernel shows it."""
        ids = (ctypes.c_uint32 * 64)()
        # BPF_PROG_QUERY of BPF_TCX_INGRESS (linux/bpf.h).
        query = bytearray(struct.pack("IIIIQI36x", socket.if_nametoindex("lan"), 46, 0, 0, ctypes.addressof(ids), 64))
        bpf(16, query)
        times, runs = zip(*(ProgramTime.of(program) for program in ids if program))
        return sum(times), max(runs)

    @staticmethod
    def of(program):
        # BPF_PROG_GET_FD_BY_ID
        fd = bpf(13, bytearray(struct.pack("III", program, 0, 0)))
        try:
            shown = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        finally:
            os.close(fd)
        return int(shown["run_time_ns"]), int(shown["run_cnt"])


def bpf(command, attributes):
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
    result = libc.syscall(numbers[os.uname().machine], command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}")
    return result


def machine_time():
    """Milliseconds for which the processors were busy since the machine started."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) * 1000 / os.sysconf("SC_CLK_TCK")


class Result:
    """What became of one stream."""

    def __init__(self, sent, received, rate, busy, machine=0.0):
        self.sent, self.rate = sent, rate
        # Microseconds of the whole machine for each packet that was sent.
        self.machine = 1000 * machine / sent
        # In percent.
        self.lost = max(0.0, 100 * (1 - received / sent))
        # Microseconds of the relay for each packet that came out of it.
        self.cost = 1000 * busy / received if received else 0.0


class Way:
    """A way for multicast into a receiver, on a LAN of its own."""

    def __init__(self, context, kind, count=1, ipv6=False):
        self.context, self.kind, self.count, self.ipv6 = context, kind, count, ipv6
        self.group = GROUP_IPV6 if ipv6 else GROUP
        self.stack = ExitStack()
        self.relays, self.others = [], []
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
        pid = self.containers.start()
        self.inside = of_container(pid), "mc0" if self.kind == "macvlan" else "eth0"
        if self.kind == "macvlan":
            self.containers.attach(0, pid)
        else:
            bridge(self.facility, pid)
        if self.kind in ("kernel", "proxy"):
            if self.kind == "proxy":
                config = Path(self.containers.environment["MCRUN_CONFIG_DIR"])
                config.mkdir(exist_ok=True)
                (config / "mcrun.toml").write_text("[relay]\nbpf = false\n")
            spec = "parent=lan,driver=relay" + (",ipv6=on" if self.ipv6 else "")
            self.containers.call("createRuntime", 0, pid, spec)
            for number in range(1, self.count):
                other = self.containers.start()
                bridge(self.facility, other, number)
                self.containers.call("createRuntime", number, other, spec)
                self.others.append((of_container(other), "eth0"))
            if self.kind == "proxy":
                self.relays = self.containers.proxies()
        elif program:
            loop = subprocess.Popen([program, of_container(pid), "lan", "eth0", GROUP])
            self.stack.callback(lambda: (loop.kill(), loop.wait()))
            self.relays = [loop.pid]
        for relay in self.relays:
            os.sched_setaffinity(relay, {self.relaying})
        if self.ipv6:
            wait_until_usable("nsenter", f"--net={self.inside[0]}", "ip", link="eth0")
            self.facility.use_ipv6()
        else:
            self.facility.query()
            time.sleep(0.6)

    def memory(self):
        """PSS of the proxy, in KiB."""
        return pss(self.containers.proxies())

    def relayed(self):
        """Packets that the containers' relays have passed on."""
        containers = json.loads(self.containers.mcrun("ps", "--json"))
        return sum(interface.get("relayed") or 0 for container in containers for interface in container["interfaces"])

    def stream(self, size, rate, held=False):
        """Sends for a while, and tells what became of it. `held`: the receivers have joined and do nothing."""
        receivers = [self.receiver(place) for place in (self.inside, *self.others)]
        try:
            for receiver in receivers if held else ():
                receiver.send_signal(signal.SIGSTOP)
            before, machine = processor_time(self.relays), machine_time()
            sent = self.send(self.lan, size, "--rate", str(rate), "--duration", f"{SECONDS}s")
            # What the buffers hold comes too.
            time.sleep(0.4)
            busy, machine = processor_time(self.relays) - before, machine_time() - machine
        finally:
            for receiver in receivers:
                receiver.send_signal(signal.SIGCONT)
            results = [ended(receiver) for receiver in receivers]
        received = sum(received for received, _ in results) / len(results)
        return Result(sent, received, results[0][1], busy, machine)

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
            mdb = ("nsenter", f"--net={self.facility.path(self.facility.switch)}", "bridge", "mdb", "show")
            wait_until("the switch forwards", lambda: self.group in run(*mdb))
            time.sleep(0.1)
        except BaseException:
            receiver.kill()
            receiver.communicate()
            raise
        return receiver

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
