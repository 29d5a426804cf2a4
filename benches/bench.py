#!/usr/bin/env python3
"""What mcrun costs and gains beside what people use today, measured in one run.

Prints a table of figure, mcrun, peer and ratio (how many times as much the peer takes) as it measures,
and writes the same as JSON and as Markdown. It is a report, not a test: no time fails anything. A peer
that cannot run is shown with the reason.

Runs as root, in network namespaces of its own, for about twelve minutes.
"""

import argparse
import gzip
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import attach
import docker
import egress
import joins
import keeper
import loss
import many
import memory
import programs
import relay
import scale
from lab import Context
from table import Row, from_json, line, markdown, to_json

# In the order of the report. Each has a function `rows(context)`, which gives the rows as it measures
# them; what it needs from other programs is in the Makefile's list of packages.
SECTIONS = {
    "joins": joins.rows,
    "mld": joins.mld_rows,
    "attach": attach.rows,
    "docker": docker.rows,
    "memory": memory.rows,
    "scale": scale.rows,
    "keeper": keeper.rows,
    "egress": egress.rows,
    "loss": loss.rows,
    "relay": relay.rows,
    "relay-ipv6": relay.ipv6_rows,
    "programs": programs.rows,
    "relay-many": many.rows,
}

# Where docs/performance.md has the table; the place of some sections is named by them, too.
BEGIN, END = "<!-- make bench{} -->", "<!-- end of make bench{} -->"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=Path, nargs="?", help="directory of mcrun's programs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="SECTION",
                        help="measure only this, or with --from print only this, may be repeated: "
                             + ", ".join(SECTIONS))
    parser.add_argument("--brief", action="store_true", help="the Markdown has the main figures only")
    parser.add_argument("--from", type=Path, metavar="JSON", dest="earlier",
                        help="measure nothing, print the Markdown of an earlier run")
    parser.add_argument("--into", type=Path, metavar="FILE",
                        help="with --from: put it between two lines of a file, which are "
                             f"{BEGIN.format('')} and {END.format('')}, or with --only "
                             f"{BEGIN.format(' SECTION...')} and {END.format(' SECTION...')}")
    options = parser.parse_args()
    if options.earlier:
        rows, machine = from_json(options.earlier.read_text())
        rows = [row for row in rows if not options.only or row.section in options.only]
        if not rows:
            sys.exit(f"{options.earlier} has no such rows")
        text = as_markdown(rows, machine, options.brief)
        if options.into:
            replace(options.into, text, "".join(f" {name}" for name in SECTIONS if name in (options.only or ())))
        else:
            print(text, end="")
        return
    if not options.binaries:
        parser.error("the directory of mcrun's programs is missing")
    if os.geteuid() != 0:
        sys.exit("root is needed: network namespaces are made")
    # Whoever ends it wants what it made to be gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))

    rows, broken = [], False
    print(machine_line(), flush=True)
    # In memory, as /run is, where mcrun keeps its state: for the peers too.
    memory = "/dev/shm" if os.path.ismount("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="mcrun-bench-", dir=memory) as directory:
        for name in options.only or SECTIONS:
            place = Path(directory) / name
            place.mkdir()
            try:
                for row in SECTIONS[name](Context(options.binaries.absolute(), place)):
                    row.section = name
                    rows.append(row)
                    print(line(row), flush=True)
            except Exception as error:
                # One subject that fails leaves the others to be measured.
                traceback.print_exc()
                reason = f"not measured: {' '.join(str(error).split()) or type(error).__name__}"
                rows.append(Row(name, "", None, note=reason, section=name))
                print(line(rows[-1]), flush=True)
                broken = True
    if options.json:
        options.json.write_text(to_json(rows, machine_line()))
    if options.markdown:
        options.markdown.write_text(as_markdown(rows, machine_line(), options.brief))
    if broken:
        sys.exit(1)


def as_markdown(rows, machine, brief):
    return f"On {machine}:\n\n{markdown([row for row in rows if row.brief or not brief])}"


def replace(file, text, sections):
    """Puts a text in the place that a file has for all sections, or for these."""
    first, last = BEGIN.format(sections), END.format(sections)
    before, begin, rest = file.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        sys.exit(f"{file} has no lines {first} and {last}")
    file.write_text(f"{before}{begin}\n{text}{end}{after}")


def machine_line():
    """The machine in one line."""
    release = os.uname().release.split("-")[0]
    hz = None
    for config in (f"/boot/config-{os.uname().release}", "/proc/config.gz"):
        path = Path(config)
        if not path.exists():
            continue
        if config.endswith(".gz"):
            text = gzip.decompress(path.read_bytes()).decode()
        else:
            text = path.read_text()
        hz = next((word[10:] for word in text.split() if word.startswith("CONFIG_HZ=")), None)
        break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, kernel {release}" + (f", HZ {hz}" if hz else "")


if __name__ == "__main__":
    main()
