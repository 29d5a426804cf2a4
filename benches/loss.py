"""A fast stream and several receivers on one parent: what is lost, and what it costs the host."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from lab import ENVIRONMENT, Containers, Facility, median, of_container, run, wait_until
from table import Row

GROUP = "239.5.0.1"
RECEIVERS = (1, 2, 8)
RATES = (25_000, 50_000, 94_000, 130_000)
SECONDS = 1


def rows(context):
    ours = losses(context, "mcrun")
    theirs = losses(context, "bare")
    for receivers in RECEIVERS:
        for rate in RATES:
            mine, other = ours[receivers, rate], theirs[receivers, rate]
            yield Row(f"loss, {receivers} receiver{'s' * (receivers > 1)} of {rate // 1000} k packets/s",
                      "%", mine.lost, "macvlan's defaults (docker)", other.lost,
                      f"{mine}; {other}" if mine.where or other.where else "")
    return


class Loss:
    """Share in percent of what was sent that did not reach the receivers, and where it was lost."""

    def __init__(self, sent, results, backlog):
        receivers = len(results)
        received = sum(result["packets"] for result in results)
        groups = [group for result in results for group in result["groups"]]
        socket = sum(group.get("kernel_dropped") or 0 for group in groups)
        expected = sent * receivers
        self.lost = max(0.0, 100 * (1 - received / expected))
        self.where = []
        if socket:
            self.where.append(f"{100 * socket / expected:.1f} % at the sockets")
        if backlog:
            self.where.append(f"{backlog} at the CPU backlog")

    def __str__(self):
        return ", ".join(self.where) or "-"


def losses(context, kind):
    found = {}
    with Facility(3) as facility, Containers(facility, context, f"loss-{kind}") as all_:
        facility.enter_host()
        pids = [all_.start() for _ in range(max(RECEIVERS))]
        for number, pid in enumerate(pids):
            if kind == "mcrun":
                all_.attach(number, pid)
            else:
                all_.bare(number, pid)
        facility.query()
        time.sleep(0.6)
        for receivers in RECEIVERS:
            for rate in RATES:
                found[receivers, rate] = stream(context, facility, pids[:receivers], rate)
    return found


def joined(pid):
    number = "{:08X}".format(int.from_bytes(bytes(map(int, GROUP.split("."))), "little"))
    return number in Path(f"/proc/{pid}/net/igmp").read_text()


def backlog_drops():
    """Packets that a processor's backlog was too full for, all namespaces together."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def inside(namespace, *words):
    return subprocess.Popen(["nsenter", f"--net={namespace}", *words], stdout=subprocess.PIPE,
                            env=ENVIRONMENT, text=True)


def send(context, facility, *options):
    """Streams to the group; the sender's own report."""
    namespace = facility.path(facility.source)
    sender = inside(namespace, context.program("mcrun"), "probe", "send", GROUP, "-i", "lan", "--json",
                    *options)
    return json.loads(sender.communicate()[0].splitlines()[-1])


def stream(context, facility, pids, rate):
    receivers = [inside(of_container(pid), context.program("mcrun"), "probe", "recv", GROUP, "-i", "mc0",
                        "--json", "--duration", "30s") for pid in pids]
    try:
        wait_until("all have joined", lambda: all(joined(pid) for pid in pids))
        mdb = ("nsenter", f"--net={facility.path(facility.switch)}", "bridge", "mdb", "show")
        wait_until("the switch forwards", lambda: GROUP in run(*mdb))
        time.sleep(0.05)
        before = backlog_drops()
        report = send(context, facility, "--rate", str(rate), "--count", str(rate * SECONDS))
        time.sleep(0.1)
        dropped = backlog_drops() - before
    finally:
        for receiver in receivers:
            receiver.send_signal(signal.SIGINT)
        texts = [receiver.communicate()[0] for receiver in receivers]
    results = [json.loads(text.splitlines()[-1]) for text in texts]
    return Loss(sum(group["packets"] for group in report["groups"]), results, dropped)


def host_stack(context):
    """What the host's own IP stack costs for a group that only a container wants: the stream is sent as
    fast as it goes, and all of its way is the sender's own processor time."""
