"""Several containers get one stream: what processors do for each packet that gets into a container.

What the kernel does for a packet is in the time of the sender, of the kernel's threads, or of a relay. All these are taken
together, less those of the same stream to a receiver on the host; what else the machine does is not in them. They are
divided by the packets that the containers' kernels have received, not by those that were sent: what loses packets is
not cheap for that. The containers have joined and do not read, as they would take the processors.
"""

from contextlib import ExitStack

from lab import Unable, median
from table import Row
from ways import Way, in_turns

# Containers, and packets a second.
LOADS = ((1, 100_000), (8, 100_000), (64, 5_000))
# Of RTP payload, seconds of a stream, and streams.
SIZE, SECONDS, ROUNDS = 1316, 1, 5
PEERS = {"proxy": "proxy", "C loop": "C loop", "nft dup": "nft dup", "copies": "a program that only copies",
         "macvlan": "macvlan"}


def rows(context):
    for count, rate in LOADS:
        yield from load(context, count, rate)


def load(context, count, rate):
    """The rows of so many containers."""
    with ExitStack() as stack:
        ways, unable = {"bare host": stack.enter_context(Way(context, "bare host"))}, {}
        for kind in ("kernel", *PEERS):
            try:
                ways[kind] = stack.enter_context(Way(context, kind, count))
            except Unable as reason:
                unable[kind] = str(reason)
        found = in_turns(ways, ROUNDS, lambda way: way.carry(SIZE, rate, SECONDS))
    bare = found.pop("bare host")
    cost = {kind: median(map(one_packet, list_, bare)) for kind, list_ in found.items()}
    lost = {kind: median([missing(result, count) for result in list_]) for kind, list_ in found.items()}
    sent = {kind: median([result.sent / SECONDS for result in list_]) for kind, list_ in found.items()}
    for kind, peer in PEERS.items():
        said = [f"lost {lost['kernel']:.2f} %; {lost[kind]:.2f} %"] if kind in found else [unable[kind]]
        said += [f"{'mcrun' if who == 'kernel' else peer}: sent only {sent[who] / 1000:.0f} k packets/s"
                 for who in ("kernel", kind) if who in found and sent[who] < 0.95 * rate]
        yield Row(f"relay of {rate // 1000} k packets/s to {count}, processor time",
                  "us a packet and container", cost["kernel"], peer, cost.get(kind), "; ".join(said))


def one_packet(result, bare):
    """Microseconds of a processor for each packet that got into a container, beyond those of the host's stream."""
    return 1000 * max(0.0, result.spent - bare.spent / bare.sent * result.sent) / max(result.arrived, 1)


def missing(result, count):
    """Percent of the packets that did not get into the containers."""
    return max(0.0, 100 * (1 - result.arrived / (count * result.sent)))
