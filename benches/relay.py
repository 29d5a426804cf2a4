"""The relay beside the ways that need none, and beside the least that relays (relay_loop.c) and the rules by which
a kernel does it (nft dup): what arrives of a flood and of a steady stream, and what a packet costs a proxy.

The kernel relays, or the proxy does (`[relay] bpf = false`). The sender, a proxy that relays and the receiver
have a processor each where there are three, and with two the proxy shares its with the receiver. A packet's way
up to the proxy is the sender's processor time; putting it into the container's sockets is the proxy's, and is
in its figures.

How much a proxy can carry is measured by its own processor time for a burst that waits in its socket: full
batches, and neither the sender's speed nor other load is in it.

What the kernel does for a packet is in no process's time: programs.py and many.py measure it.
"""

from contextlib import ExitStack

from lab import Unable, median
from programs import relaying_time
from table import Row
from ways import Way, in_turns

# Of RTP payload: seven packets of an MPEG transport stream, and little.
SIZES = (1316, 64)
RATE = 50_000
# More than any of these can do.
FLOOD = 2_000_000
ROUNDS = 3
BURSTS = 7
KINDS = ("kernel", "proxy", "C loop", "nft dup", "bare host", "macvlan")


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
        ours, other = relaying_time([paths["kernel", ipv6] for ipv6 in (True, False)])
        yield Row("the program that relays to one container, IPv6", "us a packet", ours, "IPv4", other)


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
