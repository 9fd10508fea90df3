"""`driftline bench corpus`: the hostile-input corpus against the validator, the prediction server and the file readers.

Every process is a real one. Bars: every outcome as the data files state it, no process that ends, no 5xx, no connection
that is reset, nothing that takes a second, memory within its cap.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import _corpus_files, _corpus_http, _corpus_stream
from tests.bench._hops import Hops
from tests.bench.report import bar, finish, progress
from tests.contracts import contract_file_named
from tests.corpus import cases

VALIDATOR_MB = 512  # as its container; with 500,000 records in one batch and bombs of 64 MiB
VALIDATOR_SERIES, SERVER_SERIES = 500, 500  # whatever the records say
WORKER_MB = 800  # of the prediction server


def main() -> int:
    parser = argparse.ArgumentParser(prog="driftline bench corpus", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the report is JSON in any case")
    parser.add_argument("--full", action="store_true", help="the same: it is always run whole")
    parser.parse_args()
    began = time.monotonic()
    records, files = cases.records(), cases.files()
    now_ms = time.time_ns() // 1_000_000
    file_wrong, file_deaths, file_slowest = _corpus_files.run(files, records, now_ms)
    progress(f"{len(files)} files and {len(records)} lines read, slowest {file_slowest:.2f} s")
    with _corpus_broker() as (hops, broker):
        answered = _corpus_http.run(hops, records)
        progress(f"{answered.requests} requests answered, slowest {answered.slowest_s:.2f} s")
        streamed = _corpus_stream.run(hops, broker, records)
    for line in [*file_wrong, *answered.wrong, *streamed.wrong, *streamed.metric_faults, *answered.metric_faults]:
        progress(f"WRONG {line}")
    bars = [
        bar("validator: outcomes other than stated", len(streamed.wrong), "==", 0),
        bar("validator: processes that ended", streamed.deaths, "==", 0),
        bar("validator: longest stall over the records, seconds", round(streamed.longest_stall_s, 3), "<=", 1.0),
        bar("validator: partial rows in blocks", streamed.partial_rows, "==", 0),
        bar("validator: metrics that are no number, labels that a record chose", len(streamed.metric_faults), "==", 0),
        bar("validator: series", streamed.series, "<=", VALIDATOR_SERIES),
        bar("validator: resident memory, MB", round(streamed.peak_mb), "<=", VALIDATOR_MB),
        bar("server: outcomes other than stated", len(answered.wrong), "==", 0),
        bar("server: answers of 500 and above", answered.server_errors, "==", 0),
        bar("server: connections without an answer", answered.resets, "==", 0),
        bar("server: workers that ended", answered.deaths, "==", 0),
        bar("server: longest answer to up to 16 MB, seconds", round(answered.slowest_s, 3), "<=", 1.0),
        bar("server: resident memory of a worker, MB", round(answered.peak_mb), "<=", WORKER_MB),
        bar("server: metrics that are no number, labels that a record chose", len(answered.metric_faults), "==", 0),
        bar("server: series", answered.series, "<=", SERVER_SERIES),
        bar("files: outcomes other than stated", len(file_wrong), "==", 0),
        bar("files: readers that ended", file_deaths, "==", 0),
        bar("files: longest time of one, seconds", round(file_slowest, 3), "<=", 1.0),
    ]
    figures = {
        "records": len(records),
        "records_in_one_batch": _corpus_stream.MANY,
        "requests": answered.requests,
        "files": len(files),
        "wrong": [*file_wrong, *answered.wrong, *streamed.wrong][:20],
    }
    return finish("corpus", began, bars, figures)


def _corpus_broker():
    """A broker and a dataset of the bench's own."""
    import tempfile
    from contextlib import contextmanager

    from pipeline.broker import Broker

    @contextmanager
    def made():
        with tempfile.TemporaryDirectory(prefix="driftline-corpus-") as folder:
            root = Path(folder)
            contract = contract_file_named(root, id="corpus")
            with Broker(root / "broker") as broker:
                yield Hops(root / "home", broker, str(contract)), broker

    return made()


if __name__ == "__main__":
    sys.exit(main())
