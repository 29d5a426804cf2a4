"""Time added to `docker run`, by scripts/measure-docker-start, which can be run alone."""

import subprocess
from pathlib import Path

from lab import Unable, need
from table import Row

ROUNDS = 15
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "measure-docker-start"


def rows(context):
    figure, peer = "added to docker run", "docker's macvlan network"
    try:
        need("dockerd")
        results = context.directory / "docker-start"
        done = subprocess.run([SCRIPT, str(context.binaries), str(ROUNDS), str(results)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise Unable(f"{SCRIPT.name}: {lines[-1]}")
    except Unable as unable:
        yield Row(figure, "ms", None, peer, None, str(unable), brief=True)
        return
    added = dict(line.split() for line in results.read_text().splitlines())
    yield Row(figure, "ms", float(added["mcrun"]), peer, float(added["macvlan"]), brief=True)
    yield Row("added to docker run by mcrun-runtime, nothing attached", "ms", float(added["runtime"]))
