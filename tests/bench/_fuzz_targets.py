"""What is fuzzed: each target takes any bytes and names the outcome. Anything else that happens is unclassified.

An outcome is one of a closed set: a reject code, a status, the target's own exception. A target also asserts what must
hold of a good outcome: the batch agrees with the record, what was decoded encodes again, a refusal has a 4xx status.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pyarrow as pa

from pipeline import blocks, contract_file, decode
from pipeline.blocks import BadBlock, BlockHeader
from pipeline.contract import Reject
from pipeline.errors import UsageError
from pipeline.json_record import MAX_DEPTH
from pipeline.record import CODES
from serving.admission import JSON_TYPE, Admission, Refusal
from stream_processors.dead_letters import letter as dead_letters
from stream_processors.dead_letters.letter import BadDeadLetter
from stream_processors.validator import positions, reject_breaker
from tests.corpus import cases
from tests.corpus.cases import good

CONTRACT = contract_file.load("sales")
DECODER = decode.compile(CONTRACT)
ADMISSION = Admission(DECODER)
APPENDED = 1_795_248_000_000
KNOWN = {*CODES, *(rule.code for rule in CONTRACT.rules)}
BODY_LIMIT = 1 << 16
assert MAX_DEPTH < 1000

Target = Callable[[bytes], str]


def decoder(data: bytes) -> str:
    """Records, split at a byte that JSON does not have: each alone and all in one batch."""
    values: list[bytes | None] = list(data.split(b"\xfe", 3))
    alone = [DECODER.decode(v, APPENDED) for v in values]
    together = DECODER.decode_batch(values, range(len(values)), [APPENDED] * len(values))
    assert {i: r for i, r in enumerate(alone) if isinstance(r, Reject)} == together.rejects, "batch and record differ"
    assert sum(together.counts.values()) == len(values) and together.batch.num_rows <= len(values), "a partial row"
    together.batch.validate(full=True)
    found = [r.code if isinstance(r, Reject) else "valid" for r in alone]
    assert set(found) <= KNOWN | {"valid"}, f"a code that is not in the list: {found}"
    for row in alone:
        numbers = [] if isinstance(row, Reject) else [v for v in row.values() if isinstance(v, float)]
        assert all(map(math.isfinite, numbers)), "a number that is none"
    return found[0]


def block(data: bytes) -> str:
    """A block's body; one that decodes encodes to the same rows."""
    try:
        rows = blocks.decode(data)
    except BadBlock:
        return "bad block"
    rows.validate(full=True)
    assert blocks.decode(blocks.encode(rows)).equals(rows) or _has_nan(rows), "not the same again"
    return "block"


def _has_nan(rows: pa.RecordBatch) -> bool:
    return any(pa.types.is_floating(c.type) for c in rows.columns)


def contract(data: bytes) -> str:
    """A contract file's text; one that is accepted compiles to a decoder."""
    text = data.decode("utf-8", "replace")
    try:
        found = contract_file.parse(text, "fuzz.yaml")
        decode.compile(found)
    except UsageError:
        return "refused"
    return "contract"


def headers(data: bytes) -> str:
    """Headers of blocks and dead letters, the metadata of a stop, requests to go on: `name=value` lines."""
    pairs = [(k.decode("utf-8", "replace"), v) for k, _, v in (line.partition(b"=") for line in data.split(b"\n"))]
    outcome = []
    try:
        header = blocks.from_headers(pairs)
        assert blocks.from_headers(blocks.to_headers(header)) == header, "not the same again"
        positions.watermark_after(header)
        outcome.append("block")
    except BadBlock:
        pass
    try:
        dead_letters.from_headers(pairs)
        outcome.append("letter")
    except BadDeadLetter:
        pass
    letter = dead_letters.describe(
        coordinate=("t", 0, 1), reject=Reject("syntax", "", data.decode("utf-8", "replace")), key=data, value=data,
        headers=pairs, timestamp=APPENDED, contract="c@1", now=APPENDED,
    )  # fmt: skip
    assert dead_letters.from_headers(dead_letters.to_headers(letter, pairs)) == letter, (
        "a letter that is not read again"
    )
    reject_breaker.from_metadata(data.decode("utf-8", "replace"))
    reject_breaker.resumed(data, "sales")
    return "+".join(outcome) or "neither"


def request(data: bytes) -> str:
    """A request's body on both endpoints."""
    statuses = []
    for judge in (ADMISSION.one, ADMISSION.many):
        try:
            assert judge(JSON_TYPE, data), "admitted without a row"
            statuses.append("200")
        except Refusal as refusal:
            assert 400 <= refusal.status < 500, refusal.status
            json.dumps(refusal.body).encode()
            statuses.append(str(refusal.status))
    return "/".join(statuses)


TARGETS: dict[str, Target] = {
    "decoder": decoder, "block": block, "contract": contract, "headers": headers, "request": request,
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Good inputs, and the corpus, to begin from."""
    if name in ("decoder", "request"):
        records = [r.value for r in cases.records() if r.value and len(r.value) < 4000]
        return records if name == "decoder" else [*records, *(b'{"rows":[' + r + b"]}" for r in records[:80])]
    if name == "block":
        rows = DECODER.decode_batch([good(), good(price=1), b"{"], range(3), [APPENDED] * 3).batch
        plain = pa.BufferOutputStream()
        with pa.ipc.new_stream(plain, rows.schema) as writer:
            writer.write_batch(rows)
        return [blocks.encode(rows), blocks.encode(rows.slice(0, 0)), plain.getvalue().to_pybytes(), b""]
    if name == "contract":
        return [contract_file.shipped_text(n).encode() for n in ("sales", "online_retail", "paper")]
    header = BlockHeader("t", 0, 5, 9, {"valid": 4}, APPENDED, APPENDED, None, "c@1")
    letter = dead_letters.describe(
        coordinate=("t", 0, 1), reject=Reject("range", "quantity", "m"), key=b"k", value=b"v",
        headers=[("driftline.replay-of", b"t/0/0"), ("driftline.attempt", b"2")], timestamp=1, contract="c@1", now=2,
    )  # fmt: skip
    stop = reject_breaker.to_metadata(reject_breaker.Stop(5, "run", 3, 3, "2026-01-01T00:00:00.000Z")).encode()
    lists = [
        blocks.to_headers(header),
        dead_letters.to_headers(letter),
        [("driftline.replay-of", b"\xff"), ("driftline.first-failed-at", b"9")],
    ]
    return [*(b"\n".join(k.encode() + b"=" + (v or b"") for k, v in pairs) for pairs in lists), stop]
