"""What attaching and detaching cost: the hook, and mcrun's CNI plugin, beside the CNI plugins macvlan and
host-local."""

import json
import os
import subprocess
import time

from lab import ENVIRONMENT, Containers, Facility, Unable, median, need, of_container, percentile, pss
from table import Row

CONTAINERS = 50
CALLS = 30


class Cni:
    """A CNI plugin, called as a container engine does: macvlan, with host-local addresses."""

    parent = {"type": "macvlan", "master": "lan", "mode": "bridge"}

    def __init__(self, context, name="cni"):
        self.plugin, self.environment = need("macvlan"), ENVIRONMENT
        self.path = os.path.dirname(need("host-local"))
        self.config = json.dumps({
            "cniVersion": "0.4.0", "name": name, **self.parent,
            "ipam": {"type": "host-local", "subnet": "10.97.0.0/16",
                     "dataDir": str(context.directory / name)},
        }).encode()

    def begin(self, command, number, pid):
        environment = {**self.environment, "CNI_COMMAND": command, "CNI_CONTAINERID": f"bench{number}",
                       "CNI_NETNS": of_container(pid), "CNI_IFNAME": "mc0",
                       "CNI_PATH": self.path}
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


class McrunCni(Cni):
    """mcrun's plugin, which has the addresses from host-local too."""

    parent = {"type": "mcrun-cni", "parent": "lan"}

    def __init__(self, context, name="mcrun-cni"):
        super().__init__(context, name)
        self.plugin = context.program("mcrun-cni")
        self.environment = {**ENVIRONMENT, "MCRUN_STATE_DIR": str(context.directory / "cni-state"),
                            "MCRUN_CONFIG_DIR": str(context.directory / "cni-config")}


class McrunPool(McrunCni):
    """mcrun's plugin, with addresses of a pool of mcrun's own. Before a container has its address, the LAN
    is asked whether somebody else has it."""

    conflict = "probe"

    def __init__(self, context, name="mcrun-pool"):
        super().__init__(context, name)
        networks = context.directory / "cni-config" / "networks"
        networks.mkdir(parents=True, exist_ok=True)
        (networks / "lan.toml").write_text('parent = "lan"\nsubnet = "10.97.0.0/16"\n')
        self.config = json.dumps({"cniVersion": "0.4.0", "name": name, "type": "mcrun-cni", "net": "lan",
                                  "ip": "pool", "conflict": self.conflict}).encode()


class McrunUnasked(McrunPool):
    """The same without the question, which the plugin macvlan does not ask either."""

    conflict = "off"


def rows(context):
    with Facility(2) as facility:
        facility.enter_host()
        added, deleted, why = cni(facility, context)
        for kind, addresses in ((McrunPool, "a pool"), (McrunUnasked, "a pool, conflict=off"),
                                (McrunCni, "host-local")):
            own_added, own_deleted, _ = cni(facility, context, kind)
            for verb, own, theirs in (("ADD", own_added, added), ("DEL", own_deleted, deleted)):
                if own:
                    yield Row(f"mcrun-cni {verb} with {addresses} p50", "ms", median(own), "CNI macvlan",
                              theirs and median(theirs), why, brief=verb == "ADD")
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


def cni(facility, context, kind=Cni):
    """Times of a plugin's ADD and DEL in milliseconds, or why there are none."""
    try:
        plugin = kind(context)
        with Containers(facility, context, f"{kind.__name__}-containers") as all_:
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
