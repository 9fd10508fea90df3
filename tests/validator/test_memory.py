"""The validator's memory has a cap that no backlog and no burst passes: it reads no faster than it commits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from pipeline import kafka
from pipeline.broker import Broker
from tests.validator import corpus
from tests.validator.conftest import Dataset, MakeDataset, of_the_validator
from tests.validator.history import ROOT

CAP_MB = 512  # resident; docs/operations.md, "Memory": its container has this much
WRITABLE_MB = 1000  # of address space, stacks of threads included: what the kernel refuses beyond
PARTITIONS = 4  # as shipped; what is fetched ahead is bounded over all of them
BACKLOG = 400_000  # some 100 MB of records, ten times what is in flight


def test_a_backlog_is_read_within_the_memory_cap(broker: Broker, make_dataset: MakeDataset):
    dataset = make_dataset(broker.bootstrap, PARTITIONS)
    kafka.create_topics(dataset.settings, of_the_validator(dataset))
    records = corpus.sales(20_000, bad=0.01)
    dataset.fill(corpus.cycle(records, BACKLOG))
    assert measured(dataset) < CAP_MB
    assert dataset.committed() == BACKLOG


def measured(dataset: Dataset) -> float:
    """Run the validator to the end under the limit; its largest resident size in MB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (WRITABLE_MB << 20, WRITABLE_MB << 20))

    command = [sys.executable, "-m", "pipeline.cli", "--contract", str(dataset.contract), "validate", "--exit-at-end"]
    with (dataset.folder / "capped.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=dataset.environment, stdout=log, stderr=log, preexec_fn=limit)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, (dataset.folder / "capped.log").read_text()
    return usage.ru_maxrss / 1024
