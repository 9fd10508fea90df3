"""Records that end the process: found by the processes that come after, kept with their bytes, and nothing else is touched."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline import contract_file, decode
from pipeline.settings import from_environment
from stream_processors.validator import trial, validation
from stream_processors.validator.attempts import SUSPICIOUS, Attempts
from stream_processors.validator.inputs import Place
from stream_processors.validator.judging import Judging
from stream_processors.validator.positions import Position
from stream_processors.validator.reject_breaker import Limits
from stream_processors.validator.validation import Consumed
from tests.validator import corpus
from tests.validator.conftest import Dataset
from tests.validator.history import ROOT, check, now_ms
from tests.validator.test_validate import record

CONTRACT = contract_file.load("sales")
DECODER = decode.compile(CONTRACT)
PLANTED = Path(__file__).parent / "planted"


@pytest.fixture
def poisoned(dataset: Dataset) -> Dataset:
    """Processes of this dataset have a decoder with a planted fault."""
    dataset.environment["PYTHONPATH"] = f"{PLANTED}{os.pathsep}{ROOT}"
    return dataset


def letters(dataset: Dataset) -> list[tuple[str, bytes | None]]:
    found = dataset.history()
    check(found)
    return sorted((letter.rule, m.value()) for of in found.dead.values() for letter, m in of)


def test_records_that_end_the_process_are_quarantined_with_their_bytes_and_cost_no_other_record(poisoned: Dataset):
    good = corpus.sales(2_000, bad=0.0)
    bad = [(b"k1", record(order_id="poison-crash")), (b"k2", b"{" + b"poison-raise")]
    poisoned.fill([*good[:700], bad[0], *good[700:1_500], bad[1], *good[1_500:]])
    deaths(poisoned, SUSPICIOUS - 1)
    assert [poisoned.validate("--exit-at-end").wait() for _ in range(2)] == [-signal.SIGSEGV, 0]
    assert letters(poisoned) == sorted(("quarantined", value) for _, value in bad)
    text = (poisoned.folder / "validate.log").read_text()
    assert "died_decoding deaths=3" in text and "suspects_tried" in text
    assert not marks(poisoned).suspected(0, (0, 9_999)) and not marks(poisoned).suspected(1, (0, 9_999))


def marks(dataset: Dataset) -> Attempts:
    return Attempts(dataset.settings.home / "validator" / f"driftline.{dataset.id}.validate.0.attempt")


def deaths(dataset: Dataset, n: int) -> None:
    """What so many processes leave that died while they decoded the first records."""
    for _ in range(n):
        marks(dataset).begin({0: (0, 500), 1: (0, 500)})


class Raising:
    """A decoder that fails on what it does not like."""

    def decode_batch(self, values, offsets, append_ms):
        if any(b"poison" in (value or b"") for value in values):
            raise ZeroDivisionError("planted")
        return DECODER.decode_batch(values, offsets, append_ms)


def test_a_record_on_which_the_decoder_raises_is_quarantined_at_once(tmp_path: Path):
    values = [record(), b"poison", None, record(), b"{poison", record(quantity=-1)]
    run = Consumed(0, 0, np.arange(6), np.full(6, now_ms()), [b"k"] * 6, values)
    judging = Judging(CONTRACT, from_environment({"DRIFTLINE_HOME": str(tmp_path)}), "n", Limits(), lambda: None)
    judging._decoder = Raising()
    judged = judging._judge(run, Place(Position(0, None, None)))
    assert {i: r.code for i, r in judged.rejects.items()} == {
        1: "quarantined",
        2: "tombstone",
        4: "quarantined",
        5: "range",
    }
    assert judged.decoded.counts == {"valid": 2, "quarantined": 2, "tombstone": 1, "range": 1}
    (piece,) = validation.cut(judged, "t", CONTRACT)
    assert (piece.header.start, piece.header.end, piece.rows) == (0, 6, 3)
    assert "ZeroDivisionError: planted" in judged.rejects[1].message


def test_a_trial_tells_which_records_end_the_process_and_how(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{PLANTED}{os.pathsep}{ROOT}")
    monkeypatch.setattr(trial, "RECORD_WITHIN_S", 1.0)
    values = [record(), None, b"poison-crash", b"", record(), b"poison-hang", record()]
    found = trial.culprits("sales", values, [0] * len(values), lambda: None)
    assert found == {
        2: "the decoder ended its process: SIGSEGV",
        5: "the decoder did not return within 1 s",
    }


def test_batches_shrink_to_one_record_when_no_single_one_can_be_blamed(tmp_path: Path):
    path = tmp_path / "a" / "0.attempt"
    sizes, start, alone = [], 0, False
    for _ in range(40):  # every process dies while it decodes
        attempts = Attempts(path)
        size = attempts.limit(20_000)
        run = (start, start + size)
        alone = attempts.suspected(0, run) and attempts.only(0, run)
        if alone:
            break
        sizes.append(size)
        attempts.begin({0: run})
    assert sizes[: SUSPICIOUS + 3] == [20_000] * (SUSPICIOUS + 1) + [10_000, 5_000]
    assert alone and sizes[-1] == 1

    attempts.done({0: run})  # quarantined: the next process has no suspicion and the full size
    assert Attempts(path).limit(20_000) == 20_000


def test_a_mark_that_is_torn_or_strange_suspects_nobody(tmp_path: Path):
    path = tmp_path / "0.attempt"
    for text in (b"", b"{", b"null", b'{"deaths":"x"}', b"\xff" * 5000, b'{"deaths":9}'):
        path.write_bytes(text)
        assert not Attempts(path).suspected(0, (0, 10))
