"""What attaching and detaching cost: the hook beside the CNI plugins macvlan and host-local."""

import json
import os
import subprocess
import time

from lab import ENVIRONMENT, Containers, Facility, Unable, median, need, of_container, percentile, pss
from table import Row

CONTAINERS = 50
CALLS = 30


class Cni:
    """The CNI plugin macvlan with host-local addresses, called as a container engine does."""

    def __init__(self, context, name="cni"):
        self.plugin = need("macvlan")
        need("host-local")
        self.config = json.dumps({
            "cniVersion": "0.4.0", "name": name, "type": "macvlan", "master": "lan", "mode": "bridge",
            "ipam": {"type": "host-local", "subnet": "10.97.0.0/16",
                     "dataDir": str(context.directory / name)},
        }).encode()

    def begin(self, command, number, pid):
        environment = {**ENVIRONMENT, "CNI_COMMAND": command, "CNI_CONTAINERID": f"bench{number}",
                       "CNI_NETNS": of_container(pid), "CNI_IFNAME": "mc0",
                       "CNI_PATH": os.path.dirname(self.plugin)}
        plugin = subprocess.Popen([self.plugin], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  env=environment)
        plugin.stdin.write(self.config)
        plugin.stdin.close()
        return plugin

    def call(self, command, number, pid):
        start = time.perf_counter()
        plugin = self.begin(command, number, pid)
        if plugin.wait() != 0:
            raise Unable(f"the plugin's {command} failed")
        return (time.perf_counter() - start) * 1000


def rows(context):
    with Facility(2) as facility:
        facility.enter_host()
        added, deleted, why = cni(facility, context)
        with Containers(facility, context, "attach") as all_:
            pids = [all_.start() for _ in range(CONTAINERS)]
            yield from nothing(all_, pids[0])
            attached = []
            for number, pid in enumerate(pids):
                attached.append(all_.attach(number, pid))
                if number == 0:
                    memory = pss(all_.proxies())
            for name, share in (("p50", 0.5), ("p95", 0.95)):
                yield Row(f"attach {name}", "ms", percentile(attached, share), "CNI macvlan",
                          added and percentile(added, share), why, brief=True)
            yield Row("memory of the only proxy (PSS)", "KiB", memory)
            yield Row(f"memory of each of {CONTAINERS} proxies (PSS)", "KiB", pss(all_.proxies()),
                      brief=True)
            detached = []
            for number, pid in enumerate(pids):
                all_.kill(pid)
                detached.append(all_.call("poststop", number, pid))
            for name, share in (("p50", 0.5), ("p95", 0.95)):
                yield Row(f"detach of an ended container {name}", "ms", percentile(detached, share),
                          "CNI macvlan", deleted and percentile(deleted, share), why, brief=True)


def cni(facility, context):
    """Times of ADD and DEL in milliseconds, or why there are none."""
    try:
        plugin = Cni(context)
        with Containers(facility, context, "cni-containers") as all_:
            pids = [all_.start() for _ in range(CONTAINERS)]
            added = [plugin.call("ADD", number, pid) for number, pid in enumerate(pids)]
            deleted = []
            # An engine calls it before the network namespace goes.
            for number, pid in enumerate(pids):
                deleted.append(plugin.call("DEL", number, pid))
                all_.kill(pid)
            return added, deleted, ""
    except Unable as unable:
        return None, None, str(unable)


def nothing(all_, pid):
    """A container that asks for nothing, beside a program that does nothing."""
    hook = [all_.call("createRuntime", 0, pid) for _ in range(CALLS)]
    floor = []
    for _ in range(CALLS):
        start = time.perf_counter()
        process = subprocess.Popen(["/bin/true"], stdin=subprocess.PIPE, env=ENVIRONMENT)
        process.stdin.close()
        process.wait()
        floor.append((time.perf_counter() - start) * 1000)
    yield Row("hook, nothing asked for p50", "ms", median(hook), "/bin/true", median(floor))
