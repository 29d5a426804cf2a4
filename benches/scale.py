"""Many containers on one parent, many groups in one container, and many at once."""

import json
import os
import select
import socket
import subprocess
import time
from pathlib import Path

from attach import Cni
from igmp import Port
from lab import (Containers, Facility, Unable, enter, join, median, of_container, processor_time, pss, run,
                 wait_until)
from table import Row

CONTAINERS, GROUPS = 500, 20
# Attachments whose median stands for the first and the last; before the first so many are not counted, in
# which the programs come into the machine's caches.
SAMPLE, WARM_UP = 20, 3
MASS = 100
IDLE_SECONDS = 12
# Seconds between the LAN's queries where nobody has set it otherwise (RFC 9776 section 8.2).
QUERY_INTERVAL = 125
# `igmp_max_memberships`: groups of one socket.
OF_SOCKET = 20


def rows(context):
    yield from many_containers(context)
    yield from many_groups(context)
    yield from mass(context)


class HostGroups:
    """What the host has joined, as its kernel tells."""

    def __init__(self, facility):
        facility.enter_host()
        self.file = open("/proc/thread-self/net/igmp", encoding="ascii")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def count(self):
        """Groups of 239.0.0.0/8: nobody joins these but the containers."""
        self.file.seek(0)
        return sum(line.split()[0].endswith("EF") for line in self.file if line.startswith("\t"))


def nth_group(number):
    return f"239.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def many_containers(context):
    with Facility(3) as facility, Containers(facility, context, "many") as all_:
        facility.enter_host()
        pids = [all_.start() for _ in range(CONTAINERS)]
        bare_first = bare_links(pids[-SAMPLE:])
        attached = [all_.attach(number, pid) for number, pid in enumerate(pids[:-SAMPLE])]
        bare_last = bare_links(pids[-SAMPLE:])
        attached += [all_.attach(CONTAINERS - SAMPLE + number, pid)
                     for number, pid in enumerate(pids[-SAMPLE:])]
        first = median(attached[WARM_UP:][:SAMPLE])
        last = median(attached[-SAMPLE:])
        peer = "bare ip link add"
        yield Row("attach, first containers p50", "ms", first, peer, bare_first)
        yield Row(f"attach, container {CONTAINERS} p50", "ms", last, peer, bare_last)
        yield Row(f"attach, container {CONTAINERS} by the first", "times", last / first, peer,
                  bare_last / bare_first, brief=True)
        proxies = all_.proxies()
        yield Row(f"memory of each of {CONTAINERS} proxies (PSS)", "KiB", pss(proxies), brief=True)

        members = []
        try:
            with HostGroups(facility) as host:
                half = GROUPS // 2
                yield from join_all(all_, pids, host, members, 0, half)
                yield from list_groups(all_, CONTAINERS * half)
                yield from join_all(all_, pids, host, members, half, GROUPS)
                yield from list_groups(all_, CONTAINERS * GROUPS)
                yield from lists(all_)
            yield Row(f"memory of each of {CONTAINERS} proxies with {GROUPS} groups (PSS)", "KiB",
                      pss(proxies))
            query = yield from answer(facility, all_, proxies, CONTAINERS * GROUPS)
            yield from idle(proxies, query)
            with HostGroups(facility) as host:
                start = time.perf_counter()
                for member in members:
                    member.close()
                members = []
                wait_until("all groups are left", lambda: host.count() == 0, limit=60)
                yield Row(f"{CONTAINERS} x {GROUPS} groups left, until the host has left all", "ms",
                          (time.perf_counter() - start) * 1000)
        finally:
            for member in members:
                member.close()


def bare_links(pids):
    """Median time in milliseconds of `ip link add` of a macvlan in the namespaces of these processes."""
    times = []
    for pid in pids:
        start = time.perf_counter()
        subprocess.run(["ip", "link", "add", "link", "lan", "name", "bare0", "netns", str(pid),
                        "type", "macvlan", "mode", "bridge"], check=True)
        times.append((time.perf_counter() - start) * 1000)
    for pid in pids:
        run("nsenter", "--target", str(pid), "--net", "ip", "link", "del", "bare0")
    return median(times)


def join_all(all_, pids, host, members, begin, end):
    """Each container joins groups that nobody else has; all are to arrive at the host."""
    before = len(pids) * begin
    start = time.perf_counter()
    for number, pid in enumerate(pids):
        enter(of_container(pid))
        index = socket.if_nametoindex("mc0")
        if begin == 0:
            members.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for group in range(begin, end):
            join(members[number], index, nth_group(number * GROUPS + group))
    wanted = before + len(pids) * (end - begin)
    wait_until(f"the host has joined {wanted} groups", lambda: host.count() >= wanted, limit=60)
    took = (time.perf_counter() - start) * 1000
    all_.facility.enter_host()
    yield Row(f"{len(pids)} x {end - begin} groups joined, until the host has {wanted}", "ms", took)


def list_groups(all_, wanted):
    """`mcrun groups --json`, which is to show all of them as joined."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        text = all_.mcrun("groups", "--json")
        times.append((time.perf_counter() - start) * 1000)
    shown = sum(entry["status"] == "joined" for entry in json.loads(text))
    yield Row(f"mcrun groups --json, {wanted} memberships", "ms", median(times),
              note="" if shown == wanted else f"{shown} shown", brief=wanted == 5000)


def lists(all_):
    """The other lists of all containers, beside `ps` of procps, which looks at all processes too."""
    def took(call):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1000)
        return median(times)

    peer = "ps -eo pid,nlwp,args"
    processes = took(lambda: subprocess.run(peer.split(), check=True, capture_output=True))
    for words in (["ps", "--json"], ["host", "--json"], ["parents", "--json"], ["metrics"]):
        command = " ".join(["mcrun", *words])
        yield Row(f"{command}, {CONTAINERS} containers", "ms", took(lambda: all_.mcrun(*words)), peer, processes)


def answered(all_, proxies):
    """Packets of IGMP that each proxy has had from its container."""
    counts = {}
    for proxy in range(len(proxies)):
        status = json.loads(all_.mcrun("inspect", "--json", f"bench{proxy}"))["status"]
        counts[proxy] = status["interfaces"][0]["counters"].get("packets", 0)
    return counts


def answer(facility, all_, proxies, wanted):
    """A general query of the LAN: who answers, and what it costs; the cost is returned too."""
    before = answered(all_, proxies)
    with Port(facility) as port:
        # Whatever the joins have left to say is said.
        port.joins_until_quiet(1)
        used = processor_time(proxies)
        facility.query()
        reported = port.joins_until_quiet(3)
        used = processor_time(proxies) - used
    all_.facility.enter_host()
    groups = [group for group in reported if group.startswith("239.")]
    yield Row(f"general query, {wanted} groups: not reported to the LAN", "groups", wanted - len(groups),
              brief=len(proxies) > 1)
    after = answered(all_, proxies)
    silent = sum(after[proxy] <= before[proxy] for proxy in after)
    yield Row(f"general query, {len(proxies)} containers: did not answer their proxy", "containers", silent)
    yield Row(f"general query: processor time of all {len(proxies)} proxies", "ms", used)
    return used


def idle(proxies, query):
    """Processor time of proxies that have nothing to do but to answer the LAN's usual queries."""
    before = processor_time(proxies)
    time.sleep(IDLE_SECONDS)
    used = (processor_time(proxies) - before) / IDLE_SECONDS + query / QUERY_INTERVAL
    yield Row(f"{len(proxies)} idle proxies, {GROUPS} groups each, a query every {QUERY_INTERVAL} s",
              "% of a core", used / 10, brief=True)


def many_groups(context, count=1000):
    with Facility(3) as facility, Containers(facility, context, "groups") as all_:
        facility.enter_host()
        pid = all_.start()
        all_.attach(0, pid, f",max-groups={count}")
        [proxy] = all_.proxies()
        members = []
        try:
            with HostGroups(facility) as host:
                enter(of_container(pid))
                index = socket.if_nametoindex("mc0")
                used, start = processor_time([proxy]), time.perf_counter()
                for number in range(count):
                    if number % OF_SOCKET == 0:
                        members.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    join(members[-1], index, nth_group(number))
                wait_until(f"the host has joined {count}", lambda: host.count() == count)
                took = (time.perf_counter() - start) * 1000
                facility.enter_host()
                yield Row(f"{count} groups in one container, until the host has all", "ms", took)
                time.sleep(1)
                yield Row(f"{count} groups in one container: processor time of the proxy", "ms",
                          processor_time([proxy]) - used)
            yield Row(f"memory of the proxy of {count} groups (PSS)", "KiB", pss([proxy]))
            yield from answer(facility, all_, [proxy], count)
        finally:
            for member in members:
                member.close()


def mass(context):
    """So many containers at once."""
    with Facility(3) as facility:
        facility.enter_host()
        try:
            plugin, why = Cni(context, "cni-mass"), ""
            with Containers(facility, context, "mass-cni") as all_:
                pids = [all_.start() for _ in range(MASS)]
                cni = [together(plugin.begin("ADD", number, pid) for number, pid in enumerate(pids))]
                start = time.perf_counter()
                together(plugin.begin("DEL", number, pid) for number, pid in enumerate(pids))
                # An engine ends what keeps the network namespace after that, and with mcrun before.
                for pid in pids:
                    all_.kill(pid)
                cni.append((time.perf_counter() - start) * 1000)
        except Unable as unable:
            cni, why = [None, None], str(unable)
        with Containers(facility, context, "mass") as all_:
            pids = [all_.start() for _ in range(MASS)]
            spec = all_.spec
            started = together(all_.begin("createRuntime", number, pid, spec(number))
                               for number, pid in enumerate(pids))
            yield Row(f"{MASS} attached at once", "ms", started, "CNI macvlan", cni[0], why,
                      brief=True)
            # Not /proc: there they stay until the machine's init has looked after them.
            proxies = [os.pidfd_open(proxy) for proxy in all_.proxies()]
            start = time.perf_counter()
            for pid in pids:
                all_.kill(pid)
            together(all_.begin("poststop", number, pid) for number, pid in enumerate(pids))
            for proxy in proxies:
                if not select.select([proxy], [], [], 60)[0]:
                    raise TimeoutError("a proxy has not ended")
            left = list(Path(all_.state).glob("containers/*"))
            took = (time.perf_counter() - start) * 1000
            for proxy in proxies:
                os.close(proxy)
            yield Row(f"{MASS} ended at once, until nothing is left", "ms", took, "CNI macvlan", cni[1],
                      why or ("" if not left else f"{len(left)} records left"), brief=True)


def together(processes):
    """Wall time in milliseconds of processes that are started together."""
    start = time.perf_counter()
    failed = sum(process.wait() != 0 for process in list(processes))
    if failed:
        raise Unable(f"{failed} failed")
    return (time.perf_counter() - start) * 1000
