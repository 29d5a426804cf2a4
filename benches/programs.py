"""What mcrun's BPF programs take for a packet, by the kernel's own account (`kernel.bpf_stats_enabled`).

One stream tells little: the same program takes half as much again in the next. So short streams go to all in turns, and
what counts is the median. Beside the program that relays runs one that does nothing but hand on a copy, and one that does
nothing at all: the time that it takes is that of the two looks at the clock which are in each figure.
"""

from contextlib import ExitStack

import bpf
from lab import median, wait_until
from table import Row
from ways import Way, in_turns

# Of RTP payload, packets a second, the packets of one window, and windows.
SIZE, RATE = 1316, 50_000
WINDOW, WINDOWS = 6_000, 41
# Microseconds that the programs are to take at most.
RELAYING, COUNTING = 0.7, 0.15


def rows(context):
    with ExitStack() as stack:
        relay, copies, macvlan = (stack.enter_context(Way(context, kind)) for kind in ("kernel", "copies", "macvlan"))
        copying, nothing = ([program.id] for program in copies.programs)
        found = times({
            "relay": (relay, relaying(relay)),
            "copy": (copies, copying),
            "nothing": (copies, nothing),
            "count": (macvlan, counting(macvlan)),
            "count relayed": (relay, counting(relay)),
        })
    of_it = f"taking the time {median(found['nothing']):.3f} us of it"
    ours = found["relay"]
    yield row("the program that relays to one container", ours, "limit of the design", RELAYING, of_it)
    yield row("the program that relays to one container", ours, "one that only copies", median(found["copy"]),
              between(found["copy"]))
    for name, where in (("count", "macvlan"), ("count relayed", "what is relayed")):
        yield row(f"the program that counts, {where}", found[name], "limit of the design", COUNTING, of_it)


def row(figure, ours, peer, other, note):
    return Row(figure, "us a packet", median(ours), peer, other, f"mcrun {between(ours)}; {note}")


def between(times):
    """Where the middle half of the windows is."""
    ordered = sorted(times)
    return f"{ordered[len(times) // 4]:.2f} to {ordered[3 * len(times) // 4]:.2f}"


def relaying_time(ways):
    """Microseconds of a packet in the programs that relay, for each of these ways."""
    found = times({way: (way, relaying(way)) for way in ways})
    return [median(found[way]) for way in ways]


def relaying(way):
    """Ids of the programs that relay: one for each address family."""
    way.facility.enter_host()
    return bpf.at_interface("lan")


def counting(way):
    """Ids of the programs that count: one for each container. A proxy loads it when it has started."""
    ids = []

    def are_there():
        ids[:] = [program for proxy in way.containers.proxies() for program in bpf.of_process(proxy, "mcrun_count")]
        return len(ids) == way.count
    wait_until("the programs count", are_there)
    return ids


def times(watched):
    """Microseconds of a packet in programs of a way, in each window; `watched` has the way and the programs' ids."""
    found = {name: [] for name in watched}
    ways = list(dict.fromkeys(way for way, _ in watched.values()))
    with ExitStack() as stack:
        stack.enter_context(bpf.Statistics())
        for way in ways:
            stack.enter_context(way.members())

        def window(way):
            own = {name: programs for name, (its, programs) in watched.items() if its is way}
            before = {name: totals(programs) for name, programs in own.items()}
            way.send(way.lan, SIZE, "--rate", str(RATE), "--count", str(WINDOW))
            for name, programs in own.items():
                time, runs = (after - earlier for after, earlier in zip(totals(programs), before[name]))
                found[name].append(time / runs / 1000)
        in_turns({way: way for way in ways}, WINDOWS, window)
    return found


def totals(programs):
    """Nanoseconds that programs have taken, all together, and how often that ran which ran most."""
    spent, runs = zip(*map(bpf.account, programs))
    return sum(spent), max(runs)
