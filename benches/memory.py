"""Memory of the multicast daemons that Debian has, each alone in a network namespace, and of many proxies with and
without IPv6."""

import subprocess
import time

from lab import Containers, Facility, Unable, need, pss, run
from scale import CONTAINERS
from table import Row

# Until a daemon has opened all it needs.
SETTLE = 1
# Until a proxy has given back what its start and its first joins have used.
QUIET = 7


def rows(context):
    with Facility(2) as facility:
        facility.enter_host()
        # Both route between interfaces, so that there are two.
        run("ip", "-n", facility.host, "link", "add", "inner", "type", "veth", "peer", "name", "outer")
        for link in ("inner", "outer"):
            run("ip", "-n", facility.host, "link", "set", link, "up")
        run("ip", "-n", facility.host, "addr", "add", "10.96.0.1/16", "dev", "inner")
        with Containers(facility, context, "memory") as all_:
            all_.attach(0, all_.start())
            time.sleep(SETTLE)
            ours = pss(all_.proxies())
        for name, command in (("igmpproxy", igmpproxy), ("smcroute", smcroute)):
            try:
                other, note = size(command(context)), ""
            except Unable as unable:
                other, note = None, str(unable)
            yield Row("memory of one proxy (PSS)", "KiB", ours, name, other, note, brief=True)
    yield Row(f"memory of each of {CONTAINERS} proxies with IPv6 (PSS)", "KiB", of_many(context, "six", True),
              "without IPv6", of_many(context, "four", False), brief=True)


def of_many(context, name, with_ipv6):
    """PSS in KiB of each of many proxies."""
    with Facility(3) as facility, Containers(facility, context, name) as all_:
        facility.enter_host()
        for number in range(CONTAINERS):
            more = f",ip=fd00:98::a:{1 + number:x}/64" if with_ipv6 else ""
            all_.attach(number, all_.start(), more)
        time.sleep(QUIET)
        return pss(all_.proxies())


def igmpproxy(context):
    config = context.directory / "igmpproxy.conf"
    config.write_text("phyint lan upstream\nphyint inner downstream\n")
    return [need("igmpproxy"), "-n", str(config)]


def smcroute(context):
    config = context.directory / "smcroute.conf"
    config.write_text("mgroup from lan group 239.1.1.1\n"
                      "mroute from lan group 239.1.1.1 to inner\n")
    return [need("smcrouted"), "-n", "-f", str(config), "-P", str(context.directory / "smcroute.pid"),
            "-u", str(context.directory / "smcroute.sock")]


def size(command):
    """PSS in KiB of a daemon that runs in the foreground."""
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(SETTLE)
        if daemon.poll() is not None:
            lines = daemon.stderr.read().strip().splitlines() or ["it ended at once"]
            raise Unable(lines[-1])
        return pss([daemon.pid])
    finally:
        daemon.terminate()
        daemon.wait()
        daemon.stderr.close()
