"""A fast stream and several receivers on one parent: what is lost, and what it costs the host.

The sender has the first processor, and what arrives at the host is taken by the last one, as by that of
a network card's interrupt: were it the sender's, a host that cannot keep up would slow the sender down
instead of losing what it sends.
"""

import contextlib
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
# Each combination is measured so often, for so many seconds; what counts is the median.
RUNS, SECONDS = 3, 0.5
# What the defaults are to lose, in percent, and in so many steps the rate at which they do is found.
QUARTER, STEPS = 25, 3
# Rates that a sender does not reach: it pauses the less for them, and at the last not at all.
UNPACED = 5_000_000
FASTER = (120_000, 160_000, 220_000, 300_000, UNPACED)
# Packets of one run, and runs, that tell what a packet costs.
PACKETS, COSTS = 100_000, 5


def rows(context):
    with Lab(context, "bare") as theirs, Lab(context, "mcrun") as ours:
        # Fewer first: macvlan gives a container what it has left as long as another gets it.
        for receivers in RECEIVERS:
            known = {}
            for rate in RATES:
                known[rate] = ours.beside(theirs, receivers, rate)
                name = "receiver" if receivers == 1 else "receivers"
                yield row(f"loss, {receivers} {name} of {rate // 1000} k packets/s", rate,
                          *known[rate], brief=receivers > 1)
            if receivers > 1:
                yield quarter(f"loss, {receivers} receivers", known,
                              lambda rate: ours.beside(theirs, receivers, rate))
        few, left = RECEIVERS[1], RECEIVERS[-1] - RECEIVERS[1]
        known = {RATES[-1]: ours.beside(theirs, few, RATES[-1])}
        yield quarter(f"loss, {few} receivers, and {left} that have left,", known,
                      lambda rate: ours.beside(theirs, few, rate))
    yield from cost(context)


def quarter(name, known, losses):
    there = search_quarter(known, losses)
    where = "where the defaults lose a quarter" if loses_a_quarter(there) else "as fast as the sender can"
    return row(f"{name} {where}", None, *there, brief=True)


def row(figure, rate, mine, other, brief):
    said = other.remarks("defaults", rate) + mine.remarks("mcrun", other.rate())
    if rate is None:
        said.insert(0, f"{other.rate() / 1000:.0f} k packets/s")
    return Row(figure, "%", mine.percent(), "macvlan's defaults, as docker's", other.percent(),
               "; ".join(said), brief=brief)


class Loss:
    """What was sent, what of it did not reach the receivers, and where it was lost."""

    def __init__(self):
        self.expected = self.at_sockets = self.at_backlog = self.sent = 0
        self.elapsed = 0.0
        self.shares = []

    def add(self, report, results, backlog):
        sent = sum(group["packets"] for group in report["groups"])
        self.sent += sent
        self.elapsed += report["elapsed_s"]
        expected = sent * len(results)
        self.expected += expected
        self.shares.append(1 - sum(result["packets"] for result in results) / expected)
        groups = [group for result in results for group in result["groups"]]
        self.at_sockets += sum(group.get("kernel_dropped") or 0 for group in groups)
        self.at_backlog += backlog

    def rate(self):
        """Packets sent in a second."""
        return self.sent / self.elapsed

    def percent(self):
        return max(0.0, 100 * median(self.shares))

    def remarks(self, who, wanted):
        """Where the sender, wanted to be of that rate, or something behind the macvlan was too slow."""
        said = []
        if wanted and self.rate() < 0.95 * wanted:
            said.append(f"sent only {self.rate() / 1000:.0f} k packets/s")
        if self.at_sockets:
            said.append(f"{100 * self.at_sockets / self.expected:.1f} % at full sockets")
        if self.at_backlog:
            said.append(f"{self.at_backlog} packets at the processors' backlog")
        return [f"{who}: {', '.join(said)}"] if said else []


class Lab:
    """A host with so many receivers as there can be at most; the two kinds of them take turns."""

    def __init__(self, context, kind):
        self.context, self.kind = context, kind
        self.facility = Facility(3)
        self.containers = Containers(self.facility, context, f"loss-{kind}")

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.facility)
            stack.enter_context(self.containers)
            self.facility.enter_host()
            arrive_apart(self.facility)
            for number in range(max(RECEIVERS)):
                pid = self.containers.start()
                if self.kind == "mcrun":
                    self.containers.attach(number, pid)
                else:
                    self.containers.bare(number, pid)
            self.facility.query()
            time.sleep(0.6)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *failure):
        return self.stack.__exit__(*failure)

    def beside(self, other, receivers, rate):
        """The losses of this one and of the other, in turns. This one is sent as much as the other was: the
        kernel's work for the other may keep its sender from the rate that is asked for."""
        mine, others = Loss(), Loss()
        for _ in range(RUNS):
            sent = other.run(receivers, rate, others)
            self.run(receivers, min(rate, sent), mine)
        return mine, others

    def run(self, receivers, rate, total):
        """Adds the losses of one run; how many packets it sent in a second."""
        return stream(self.context, self.facility, self.containers.pids[:receivers], rate, total)


def search_quarter(known, losses):
    """The losses at the lowest rate found at which the defaults lose a quarter, or else at the highest there
    is; `known` are those at some rates."""
    low = 0
    for rate in [*known, *FASTER]:
        best, high = known.get(rate) or losses(rate), rate
        if loses_a_quarter(best):
            break
        low = rate
    if low < high < UNPACED:
        for _ in range(STEPS):
            middle = (low + high) // 2
            there = losses(middle)
            if loses_a_quarter(there):
                high, best = middle, there
            else:
                low = middle
    return best


def loses_a_quarter(there):
    """Whether the defaults, the second of a pair, do."""
    return there[1].percent() >= QUARTER


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
    return sum(group["packets"] for group in report["groups"]) / report["elapsed_s"]


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
