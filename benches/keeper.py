"""What a keeper costs: many proxies that a keeper holds for, beside the same proxies without one."""

import json
import random
import signal
import socket
import subprocess
import time

from igmp import Port
from joins import apart, made, opened
from lab import Containers, Facility, enter, joining, median, of_container, processor_time, pss, wait_until
from scale import CONTAINERS, GROUPS, QUERY_INTERVAL, HostGroups, join_all
from table import Row

# Two turns, so that what else the machine does falls on both. Only the first turn is before any keeper.
TURNS = 2
JOINS = 100
# Twice the time from one question of the keeper to the next.
IDLE_SECONDS = 20
# More than a proxy waits after an answer before it gives memory back.
MEMORY_SECONDS = 6
PEER = "no keeper"


def rows(context):
    with Facility(3) as facility, Containers(facility, context, "kept") as all_:
        facility.enter_host()
        pids = [all_.start() for _ in range(CONTAINERS)]
        for number, pid in enumerate(pids):
            all_.attach(number, pid)
        # Receivers that are there when a proxy starts or the keeper comes, as on a host that works.
        members = []
        try:
            with HostGroups(facility) as host:
                for _ in join_all(all_, pids, host, members, 0, GROUPS):
                    pass
            yield from compare(facility, all_, pids)
        finally:
            for member in members:
                member.close()


def compare(facility, all_, pids):
    proxies = all_.proxies()
    latency, idle, size = {"with": [], "without": []}, {"with": [], "without": []}, {}
    of_keeper_idle = []
    for turn in range(TURNS):
        if turn == 0:
            # Both times after everybody was asked for a status, as wait_until_held does.
            all_.mcrun("ps", "--json")
            time.sleep(MEMORY_SECONDS)
            size["without"] = pss(proxies)
        measure(facility, [proxies], pids, [idle["without"]], latency["without"], turn * 2)
        with Keeper(all_) as keeper:
            took = keeper.wait_until_held(len(pids))
            time.sleep(MEMORY_SECONDS)
            # Each once, before the joins, which leave something behind in every proxy.
            size.setdefault("with", pss(proxies))
            of_keeper = pss([keeper.pid])
            measure(facility, [proxies, [keeper.pid]], pids, [idle["with"], of_keeper_idle],
                    latency["with"], turn * 2 + 1)
        all_.facility.enter_host()
    count = len(pids)
    yield Row(f"{count} proxies, {GROUPS} groups each, with a keeper: PSS of each", "KiB", size["with"],
              PEER, size["without"], brief=True)
    yield Row(f"the keeper of {count} proxies: its own PSS", "KiB", of_keeper, brief=True)
    yield Row(f"the keeper of {count} proxies: its own PSS for each", "KiB", of_keeper / count)
    yield Row(f"a keeper that starts, until it holds for {count} proxies", "ms", took)
    yield Row(f"{count} idle proxies with a keeper, a query every {QUERY_INTERVAL} s", "% of a core",
              median(idle["with"]), PEER, median(idle["without"]), brief=True)
    yield Row(f"the keeper of {count} idle proxies", "% of a core", median(of_keeper_idle), brief=True)
    yield Row(f"join to switch port, {count} proxies with a keeper, p50", "ms",
              median(latency["with"]), PEER, median(latency["without"]), brief=True)


def measure(facility, groups, pids, idle, latency, turn):
    """Adds the processor time of each group of idle processes, and the times of joins of one container
    after the other."""
    def used():
        return [processor_time(processes) for processes in groups]

    with Port(facility) as port:
        port.joins_until_quiet(1)
        start = used()
        time.sleep(IDLE_SECONDS)
        rest = used()
        facility.query()
        port.joins_until_quiet(3)
        for times, before, quiet, after in zip(idle, start, rest, used()):
            times.append(((quiet - before) / IDLE_SECONDS + (after - quiet) / QUERY_INTERVAL) / 10)
        for number in range(JOINS):
            group = f"239.128.{turn}.{number + 1}"
            enter(of_container(random.choice(pids)))
            index = socket.if_nametoindex("mc0")
            port.drain()
            with opened(group) as receiver:
                start = made(receiver, joining(index, group))
                latency.append((port.wait_for("join", group) - start) * 1000)
            apart(0.03)


class Keeper:
    """`mcrun keep`, in the host's namespace."""

    def __init__(self, containers):
        containers.facility.enter_host()
        self.containers = containers
        self.start = time.perf_counter()
        self.process = subprocess.Popen([containers.context.program("mcrun"), "keep"],
                                        env=containers.environment)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def wait_until_held(self, count):
        """Waits until it holds for so many; the time since its start, in milliseconds."""
        def held():
            return sum(entry["proxy"]["held"]
                       for entry in json.loads(self.containers.mcrun("ps", "--json")))
        wait_until(f"the keeper holds for {count}", lambda: held() == count, limit=60)
        return (time.perf_counter() - self.start) * 1000

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
