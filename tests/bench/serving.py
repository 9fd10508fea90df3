"""The prediction service under load: latency against an empty endpoint, batch rates, swaps, overload. Everything runs as it is deployed.

    python tests/bench/serving.py [--json] [--full] [--only latency,batches,swaps,overload]

A broker, trained models, `driftline serve` with two workers, the prediction log written; one machine for server and clients.
latency     /predict and an empty BentoML endpoint in turn, one request at a time, on kept connections to both workers
batches     rows a second of /predict_batch as JSON and as an Arrow stream, contract checks on
swaps       100 promotions under load; every answer is recomputed from the files of the version that it names
overload    ten and sixty times as many clients as saturate the service: what is accepted stays quick, the rest is refused at once
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import _serving_load as load  # noqa: E402
from tests.bench._hops import hops  # noqa: E402
from tests.bench._serving_world import World, empty, follow, service  # noqa: E402
from tests.bench.report import Bar, finish, progress  # noqa: E402

QUESTIONS = ("latency", "batches", "swaps", "overload")
MODELS = 6  # more than a worker keeps in memory: swaps read and check files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="(the report is always JSON)")
    parser.add_argument("--full", action="store_true", help="three times as long")
    parser.add_argument("--only", default=",".join(QUESTIONS))
    args = parser.parse_args()
    chosen, times, began = args.only.split(","), 3 if args.full else 1, time.monotonic()
    bars: list[Bar] = []
    figures: dict[str, object] = {}
    with hops("sales") as run:
        world = World(run, MODELS)
        progress(f"{time.monotonic() - began:6.1f} s  {MODELS} models trained")
        with service(run) as port:
            world.promote("1")
            figures["seconds_to_first_model"] = round(follow(world), 2)
            if "latency" in chosen:
                with empty(run) as other:
                    _add(bars, figures, "latency", load.latency(world, port, other, 20_000 * times))
            if "batches" in chosen:
                _add(bars, figures, "batches", load.batches(world, port, 15.0 * times))
            if "swaps" in chosen:
                _add(bars, figures, "swaps", load.swaps(world, port, 100 * times))
            if "overload" in chosen:
                _add(bars, figures, "overload", load.overload(world, port, 15.0 * times))
    return finish("serving", began, bars, figures)


def _add(bars: list[Bar], figures: dict[str, object], name: str, found: tuple[list[Bar], dict[str, object]]) -> None:
    bars += found[0]
    figures[name] = found[1]
    progress(f"{name}: {found[1]}")


if __name__ == "__main__":
    sys.exit(main())
