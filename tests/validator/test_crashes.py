"""Nothing lost, nothing twice: killed validators, two of them, a broker that dies, a broker that is not there yet."""

from __future__ import annotations

import random
import re
import threading
import time
from contextlib import ExitStack

import pytest

from pipeline import kafka
from pipeline.broker import Broker
from pipeline.errors import Fatal
from tests.validator import corpus
from tests.validator.conftest import Dataset, of_the_validator, page
from tests.validator.history import check
from tests.waiting import wait_until


def consumed(dataset: Dataset) -> int:
    found = dataset.history()
    check(found)
    return sum(map(len, found.valid.values())) + sum(map(len, found.dead.values()))


def test_killed_at_random_moments_it_loses_and_repeats_nothing(dataset):
    rng = random.Random(5)
    records = corpus.sales(60_000, bad=0.02)
    feeding = threading.Thread(target=lambda: [dataset.fill(records[i : i + 3_000]) for i in range(0, 60_000, 3_000)])
    feeding.start()
    for n in range(5):
        before = dataset.committed()
        with dataset.validate(name=f"killed-{n}") as child:
            wait_until(lambda c=child: "placed" in c.text(), 30, "the validator to have its partitions")
            until = time.monotonic() + rng.uniform(0, 0.5)  # somewhere in reading, judging, producing, committing
            wait_until(lambda t=until: time.monotonic() > t, 5, "a random moment", every_s=0.005)
            child.kill()
        assert dataset.committed() >= before
    feeding.join()
    dataset.to_end()
    assert consumed(dataset) == 60_000


def test_two_share_the_partitions_and_hand_them_over(dataset, unused_port):
    records = corpus.sales(40_000, bad=0.02)
    dataset.fill(records[:10_000])
    dataset.environment["DRIFTLINE_METRICS_PORT"] = str(unused_port)

    def owned() -> list[str]:
        return re.findall(r"driftline_partitions(?:_owned)?{.*} (\S+)", page(unused_port, "/metrics"))

    with dataset.validate(name="first") as first:
        wait_until(lambda: "placed" in first.text(), 30, "the first to have its partitions")
        assert owned() == ["2.0", "2.0"]
        del dataset.environment["DRIFTLINE_METRICS_PORT"]
        with dataset.validate("--instance", "1", name="second") as second:
            wait_until(lambda: "placed" in second.text(), 40, "the second to get a partition")
            wait_until(lambda: sorted(owned()) == ["1.0", "2.0"], 10, "the first to tell that it has one of two")
            dataset.fill(records[10_000:30_000])
            wait_until(lambda: dataset.committed() == 30_000, 40, "both to have done their part")
            second.kill()  # no goodbye: its partition comes back after the session timeout
        dataset.fill(records[30_000:])
        wait_until(lambda: dataset.committed() == 40_000, 60, "the first to have taken over")
        assert owned() == ["2.0", "2.0"]
        assert first.stop() == 0
    assert consumed(dataset) == 40_000


def test_a_paused_validator_that_was_replaced_ends_itself_and_writes_nothing(dataset):
    records = corpus.sales(6_000, bad=0.02)
    dataset.fill(records[:2_000])
    with dataset.validate(name="zombie") as zombie:
        wait_until(lambda: dataset.committed() > 0, 60, "the first to have begun")
        zombie.pause()
        dataset.fill(records[2_000:4_000])
        with dataset.validate(name="successor") as successor:  # the same instance: its name is fenced off
            wait_until(lambda: dataset.committed() == 4_000, 90, "the successor to have taken over")
            zombie.go_on()
            dataset.fill(records[4_000:])
            assert zombie.wait(40) == 70
            assert "fenced" in zombie.text().lower()  # as a member or as a producer, whichever it notices first
            wait_until(lambda: dataset.committed() == 6_000, 40, "the rest")
            assert successor.stop() == 0
    assert consumed(dataset) == 6_000


@pytest.mark.broker
def test_it_waits_for_a_broker_and_nothing_is_lost_by_its_death(tmp_path, make_dataset):
    """Now and then a killed broker takes the validator for a stranger with its own name: it ends, fenced, and is started again."""
    broker = Broker(tmp_path / "broker")  # not started yet
    dataset = make_dataset(broker.bootstrap)
    records = corpus.sales(30_000)
    with ExitStack() as opened:
        lives = [opened.enter_context(dataset.validate())]

        def committed() -> int:
            if not lives[-1].running:
                assert lives[-1].wait() == Fatal.exit_code and "fenced" in lives[-1].text(), lives[-1].text()
                lives.append(opened.enter_context(dataset.validate()))
            return dataset.committed()

        wait_until(lambda: "topics_not_ready" in lives[0].text(), 30, "the validator to say that it waits")
        opened.enter_context(broker)
        kafka.create_topics(dataset.settings, of_the_validator(dataset))
        dataset.fill(records[:10_000])
        wait_until(lambda: committed() == 10_000, 60, "the first records")
        dataset.fill(records[10_000:20_000])
        broker.kill()
        broker.start()
        dataset.fill(records[20_000:])
        wait_until(lambda: committed() == 30_000, 180, "the rest after the broker's death")
        assert len(lives) <= 2 and lives[-1].stop() == 0
        assert consumed(dataset) == 30_000
