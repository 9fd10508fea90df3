"""The hostile-input corpus on every entry, in this process; `driftline bench corpus` runs it against the real ones."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from pipeline import contract_file, decode
from pipeline.contract import Reject
from pipeline.errors import UsageError
from pipeline.times import to_ms
from producers import replay
from serving.admission import JSON_TYPE, Admission, Refusal
from tests.corpus import cases
from tests.corpus.cases import File, good

CONTRACT = contract_file.load("sales")
DECODER = decode.compile(CONTRACT)
ADMISSION = Admission(DECODER)
APPENDED = to_ms("2026-11-21T08:00:00.000Z")
RECORDS, FILES = cases.records(), cases.files()
SLOW_S = 1.0


def outcome(found: decode.Row | Reject) -> str:
    return found.code if isinstance(found, Reject) else "valid"


def test_every_number_of_the_list_that_is_a_record_is_there():
    records = {
        4,
        5,
        6,
        8,
        9,
        10,
        12,
        13,
        14,
        16,
        17,
        18,
        20,
        21,
        22,
        26,
        28,
        29,
        30,
        32,
        33,
        34,
        36,
        37,
        38,
        40,
        41,
        42,
        44,
        45,
    }
    records |= {
        46,
        48,
        49,
        50,
        52,
        53,
        54,
        56,
        57,
        58,
        59,
        60,
        61,
        62,
        64,
        65,
        66,
        68,
        69,
        72,
        73,
        74,
        76,
        77,
        78,
        80,
        81,
    }
    records |= {82, 84, 85, 86, 88, 89, 1, 2}
    assert records <= {r.number for r in RECORDS}
    assert len({(r.number, r.name) for r in RECORDS}) == len(RECORDS)


def test_each_record_comes_to_its_outcome_alone_and_in_one_batch():
    alone = {}
    for r in RECORDS:
        began = time.perf_counter()
        alone[r.number, r.name] = outcome(DECODER.decode(r.value, APPENDED))
        assert time.perf_counter() - began < SLOW_S, r.name
    assert alone == {(r.number, r.name): r.stream for r in RECORDS}
    n = len(RECORDS)
    together = DECODER.decode_batch([r.value for r in RECORDS], range(n), [APPENDED] * n)
    codes = [together.rejects[i].code if i in together.rejects else "valid" for i in range(n)]
    assert codes == [r.stream for r in RECORDS]
    together.batch.validate(full=True)


def status(call) -> int:
    try:
        call()
        return 200
    except Refusal as refusal:
        return refusal.status


def test_each_record_gets_its_status_from_the_endpoint_alone_and_in_a_batch():
    requests = [r for r in RECORDS if r.http is not None]
    found = {(r.number, r.name): status(lambda r=r: ADMISSION.one(JSON_TYPE, r.value)) for r in requests}
    assert found == {(r.number, r.name): r.http for r in requests}
    for r in requests:  # within a batch, it is refused as well, whatever JSON it breaks
        batch = b'{"rows":[' + good() + b"," + r.value + b"]}"
        assert (status(lambda b=batch: ADMISSION.many(JSON_TYPE, b)) == 200) == (r.http == 200), r.name


def outcomes(path) -> Counter[str]:
    return Counter(
        outcome(DECODER.decode(v, APPENDED)) for batch in replay.stream(CONTRACT, path) for v in batch.values
    )


def test_each_record_comes_to_its_outcome_as_a_line_of_a_file(tmp_path):
    path, found, expected = tmp_path / "lines.jsonl", {}, {}
    for r in RECORDS:
        if r.jsonl is not None:
            path.write_bytes(good() + b"\n" + (r.value or b"") + b"\n" + good() + b"\n")
            found[r.number, r.name] = dict(outcomes(path))
            expected[r.number, r.name] = dict(Counter(["valid", *r.jsonl, "valid"]))
    assert found == expected


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.path.name)
def test_each_file_comes_to_its_outcomes_or_is_refused_with_a_message(file: File):
    began = time.perf_counter()
    try:
        found = dict(outcomes(file.path))
    except UsageError as error:
        assert str(file.path) in str(error)
        found = None
    assert found == file.outcomes
    assert time.perf_counter() - began < SLOW_S


def test_a_file_without_a_line_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "LINE_LIMIT", 1000)
    path = tmp_path / "endless.jsonl"
    path.write_bytes(good() + b"\n" + b"x" * 5000)
    with pytest.raises(UsageError, match=r"endless.jsonl:2: expected lines of at most 1000 bytes"):
        outcomes(path)
