"""A fast stream and several receivers on one parent: what is lost, and what it costs the host.

The sender has the first processor, and what arrives at the host is taken by the last one, as by that of
a network card's interrupt: were it the sender's, a host that cannot keep up would slow the sender down
instead of losing what it sends.
"""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from lab import ENVIRONMENT, Containers, Facility, enter, join, median, of_container, run, wait_until
from table import Row

GROUP = "239.5.0.1"
RECEIVERS = (1, 2, 8)
RATES = (25_000, 50_000, 94_000)
# Each combination is measured so often, for so many seconds; what counts is the loss of all together.
RUNS, SECONDS = 3, 0.5
# What the defaults are to lose, in percent, and in so many steps the rate at which they do is found.
QUARTER, STEPS = 25, 3
# A sender is as fast as it gets with this rate.
UNPACED = 5_000_000
# Packets of one run, and runs, that tell what a packet costs.
PACKETS, COSTS = 100_000, 5


def rows(context):
    theirs = measure(context, "bare", search=True)
    wanted = {receivers: rate for receivers, rate in theirs if rate not in RATES}
    ours = measure(context, "mcrun", more=wanted.items())
    for receivers in RECEIVERS:
        for rate in RATES:
            name = "receiver" if receivers == 1 else "receivers"
            yield row(f"loss, {receivers} {name} of {rate // 1000} k packets/s", ours, theirs, receivers,
                      rate, brief=receivers > 1)
        if receivers in wanted:
            rate = wanted[receivers]
            where = "as fast as the sender can" if rate == UNPACED else "where the defaults lose a quarter"
            yield row(f"loss, {receivers} receivers {where}", ours, theirs, receivers, rate, brief=True)
    yield from cost(context)


def row(figure, ours, theirs, receivers, rate, brief):
    mine, other = ours[receivers, rate], theirs[receivers, rate]
    said = mine.remarks("mcrun", rate) + other.remarks("defaults", rate)
    if rate not in RATES:
        said.insert(0, f"{other.sent / other.elapsed / 1000:.0f} k packets/s")
    return Row(figure, "%", mine.percent(), "macvlan's defaults, as docker's", other.percent(),
               "; ".join(said), brief=brief)


class Loss:
    """What was sent, what of it did not reach the receivers, and where it was lost."""

    def __init__(self):
        self.expected = self.received = self.at_sockets = self.at_backlog = self.sent = 0
        self.elapsed = 0.0

    def add(self, report, results, backlog):
        sent = sum(group["packets"] for group in report["groups"])
        self.sent += sent
        self.elapsed += report["elapsed_s"]
        self.expected += sent * len(results)
        self.received += sum(result["packets"] for result in results)
        groups = [group for result in results for group in result["groups"]]
        self.at_sockets += sum(group.get("kernel_dropped") or 0 for group in groups)
        self.at_backlog += backlog

    def percent(self):
        return max(0.0, 100 * (1 - self.received / self.expected))

    def remarks(self, who, wanted):
        """Where the sender or something behind the macvlan was too slow."""
        said = []
        if self.sent / self.elapsed < 0.95 * wanted and wanted != UNPACED:
            said.append(f"sent only {self.sent / self.elapsed / 1000:.0f} k packets/s")
        if self.at_sockets:
            said.append(f"{100 * self.at_sockets / self.expected:.1f} % at full sockets")
        if self.at_backlog:
            said.append(f"{self.at_backlog} packets at the processors' backlog")
        return [f"{who}: {', '.join(said)}"] if said else []


def measure(context, kind, more=(), search=False):
    """Losses by number of receivers and rate: at RATES, at `more`, and for several receivers at the lowest
    rate found at which a quarter is lost, if it is to be searched for."""
    found = {}
    with Facility(3) as facility, Containers(facility, context, f"loss-{kind}") as all_:
        facility.enter_host()
        arrive_apart(facility)
        pids = [all_.start() for _ in range(max(RECEIVERS))]
        for number, pid in enumerate(pids):
            if kind == "mcrun":
                all_.attach(number, pid)
            else:
                all_.bare(number, pid)
        facility.query()
        time.sleep(0.6)

        def loss(receivers, rate):
            total = Loss()
            for _ in range(RUNS):
                stream(context, facility, pids[:receivers], rate, total)
            return total

        usual = [(receivers, rate) for receivers in RECEIVERS for rate in RATES]
        for receivers, rate in usual + list(more):
            found[receivers, rate] = loss(receivers, rate)
        if search:
            for receivers in RECEIVERS[1:]:
                search_quarter(found, receivers, loss)
    return found


def search_quarter(found, receivers, loss):
    """Adds the rate at which a quarter is lost, and what is lost there; nothing where no rate does."""
    enough = [rate for rate in RATES if found[receivers, rate].percent() >= QUARTER]
    if not enough:
        # As fast as the sender can.
        most = loss(receivers, UNPACED)
        if most.percent() >= QUARTER:
            found[receivers, UNPACED] = most
        return
    high = enough[0]
    low = max((rate for rate in RATES if rate < high), default=0)
    best = None
    for _ in range(STEPS):
        middle = (low + high) // 2
        there = loss(receivers, middle)
        if there.percent() >= QUARTER:
            high, best = middle, there
        else:
            low = middle
    if best:
        found[receivers, high] = best


def arrive_apart(facility):
    """Has the host's packets taken by the last processor (receive packet steering)."""
    mask = f"{1 << max(os.sched_getaffinity(0)):x}"
    # /sys shows the namespace in which it was mounted.
    run("ip", "netns", "exec", facility.host, "sh", "-c",
        f"echo {mask} >/sys/class/net/lan/queues/rx-0/rps_cpus")


def stream(context, facility, pids, rate, loss):
    receivers = [inside(of_container(pid), context.program("mcrun"), "probe", "recv", GROUP, "-i", "mc0",
                        "--json", "--duration", "30s") for pid in pids]
    try:
        wait_until("all have joined", lambda: all(joined(pid) for pid in pids))
        mdb = ("nsenter", f"--net={facility.path(facility.switch)}", "bridge", "mdb", "show")
        wait_until("the switch forwards", lambda: GROUP in run(*mdb))
        before = backlog_drops()
        count = int(min(rate, max(RATES)) * SECONDS)
        report = send(context, facility, "--rate", str(rate), "--count", str(count))
        drain(pids)
        dropped = backlog_drops() - before
    finally:
        for receiver in receivers:
            receiver.send_signal(signal.SIGINT)
        texts = [receiver.communicate()[0] for receiver in receivers]
    loss.add(report, [json.loads(text.splitlines()[-1]) for text in texts], dropped)


def drain(pids):
    """Waits until what the queues held when the sender ended has arrived, and was read."""
    def state():
        arrived, waiting = 0, 0
        for pid in pids:
            devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
            # Packets received are the second number after the name.
            arrived += sum(int(line.split()[2]) for line in devices if line.strip().startswith("mc0:"))
            sockets = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
            waiting += sum(int(line.split()[4].split(":")[1], 16) for line in sockets)
        return arrived, waiting

    last, since = None, time.monotonic()
    while time.monotonic() - since < 0.1:
        now = state()
        if now != last or now[1]:
            last, since = now, time.monotonic()
        time.sleep(0.01)


def joined(pid):
    number = f"{int.from_bytes(socket.inet_aton(GROUP), 'little'):08X}"
    return number in Path(f"/proc/{pid}/net/igmp").read_text()


def backlog_drops():
    """Packets that a processor's backlog was too full for, all namespaces together."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def inside(namespace, *words):
    return subprocess.Popen(["nsenter", f"--net={namespace}", *words], stdout=subprocess.PIPE,
                            env=ENVIRONMENT, text=True)


def first_processor():
    return str(min(os.sched_getaffinity(0)))


def send(context, facility, *options):
    """Streams to the group; the sender's own report, and its processor time as `processor_s`."""
    sender = inside(facility.path(facility.source), "taskset", "-c", first_processor(),
                    context.program("mcrun"), "probe", "send", GROUP, "-i", "lan", "--json", *options)
    text = sender.stdout.read()
    sender.stdout.close()
    _, status, usage = os.wait4(sender.pid, 0)
    sender.returncode = os.waitstatus_to_exitcode(status)
    if sender.returncode != 0:
        raise RuntimeError("mcrun probe send failed")
    return json.loads(text.splitlines()[-1]) | {"processor_s": usage.ru_utime + usage.ru_stime}


def cost(context):
    """Processor time of one packet all the way to one container that has joined and does not read.

    The sender's processor takes a packet through the switch, the host and the container before it
    sends the next one, so that the sender's processor time is that of the path. The host's own IP stack
    is given each packet too; what its membership adds is shown beside the same without one."""
    with Facility(3, flood=True) as facility, Containers(facility, context, "cost") as all_:
        facility.enter_host()
        ours, bare = all_.start(), all_.start()
        all_.attach(0, ours)
        all_.bare(0, bare)
        facility.query()
        time.sleep(0.6)
        host, container = facility.path(facility.host), of_container(bare)
        contestants = {
            "mcrun": [(of_container(ours), "mc0")],
            "bare macvlan": [(container, "mc0")],
            "and the host": [(container, "mc0"), (host, "lan")],
        }
        times = {who: [] for who in contestants}
        for _ in range(COSTS):
            for who, places in contestants.items():
                members = [member(*place) for place in places]
                # Until the joins are reported.
                time.sleep(0.1)
                report = send(context, facility, "--rate", str(UNPACED), "--count", str(PACKETS))
                times[who].append(report["processor_s"] / PACKETS * 1e6)
                for each in members:
                    each.close()
        facility.enter_host()
        took = {who: median(values) for who, values in times.items()}
        yield Row("processor time of a packet, one receiver", "µs", took["mcrun"], "bare macvlan",
                  took["bare macvlan"], brief=True)
        yield Row("of it the host's membership", "µs", took["and the host"] - took["bare macvlan"])


def member(namespace, interface):
    enter(namespace)
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # As the proxy's: it gets no data (IP_MULTICAST_ALL).
    found.setsockopt(socket.IPPROTO_IP, 49, 0)
    join(found, socket.if_nametoindex(interface), GROUP)
    return found
