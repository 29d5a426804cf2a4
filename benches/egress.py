"""What a packet costs that a container sends: through the rules that limit what leaves it, beside a bare
macvlan link, which has none.

Both send bursts in turns, so that a busy machine is busy for both.
"""

import time

from lab import Containers, Facility, median, of_container
from sender import Sender
from table import Row

GROUP, PORT = "239.7.0.1", 5000
SIZES = (64, 1316)
# Packets of one system call, calls of one burst, and bursts.
BATCH = 64
CALLS = 50
BURSTS = 201


def burst(sender):
    """Nanoseconds of one packet."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        sender.send()
    return (time.perf_counter_ns() - start) / (CALLS * BATCH)


def rows(context):
    with Facility(3) as facility, Containers(facility, context, "egress") as containers:
        facility.enter_host()
        limited, bare = containers.start(), containers.start()
        containers.attach(0, limited)
        containers.bare(1, bare)
        for size in SIZES:
            senders = [Sender(of_container(pid), GROUP, PORT, size, BATCH) for pid in (limited, bare)]
            found = [], []
            for _ in range(BURSTS):
                for sender, times in zip(senders, found):
                    times.append(burst(sender))
            for sender in senders:
                sender.close()
            mcrun, other = (median(times) / 1000 for times in found)
            share = 100 * (mcrun / other - 1)
            yield Row(f"a sent packet of {size} bytes", "us", mcrun, "bare macvlan", other,
                      f"the rules take {1000 * (mcrun - other):.0f} ns, {share:.1f} %", size == SIZES[-1])
