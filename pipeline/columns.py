"""PURE. Questions to whole columns: times into milliseconds, and which texts are in doubt. Knows no contract."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The common spelling of RFC 3339, of which Arrow's cast is sure; other spellings go to the examiner. All impossible days
# but 29 February of a common year are left out here, because one text that Arrow cannot cast stops the cast of a whole column.
_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|[12][0-9]))"
)
_HOUR = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_COMMON_TIME = rf"\A[12][0-9]{{3}}-{_DAY}T{_HOUR}:[0-5][0-9](?:\.[0-9]{{3}})?(?:Z|[+-]{_HOUR})\z"
TIMESTAMP = pa.timestamp("ms", tz="UTC")


def to_ms(texts: pa.Array) -> np.ndarray:
    """Milliseconds of a column of RFC 3339 texts; the least int64 where the text is in doubt, and where it is null."""
    doubt = np.iinfo(np.int64).min
    common = pc.fill_null(pc.match_substring_regex(texts, _COMMON_TIME), False)
    certain = texts if pc.all(common).as_py() else pc.if_else(common, texts, None)
    try:
        times = certain.cast(TIMESTAMP)
    except pa.ArrowInvalid:  # one text of the right shape that is no time stops the whole cast
        times = pa.array([_one_ms(t) for t in certain.to_pylist()], pa.int64()).view(TIMESTAMP)
    return pc.fill_null(times.view(pa.int64()), doubt).to_numpy(zero_copy_only=False).copy()


def _one_ms(text: str | None) -> int | None:
    try:
        return None if text is None else (msgspec.convert(text, datetime) - _EPOCH) // timedelta(milliseconds=1)
    except msgspec.ValidationError:
        return None


def doubtful_texts(array: pa.Array) -> list[int]:
    """Rows whose text is not plain printable ASCII, and is unprintable or not in normal form C."""
    data = array.buffers()[2]
    if data is None or not data.size:
        return []
    view = np.frombuffer(data, np.uint8)
    if view.min() >= 0x20 and view.max() < 0x7F:  # both in one pass each over the bytes: nearly free
        return []
    starts = np.frombuffer(array.buffers()[1], np.int32)[1 : len(array) + 1]
    rows = np.unique(np.searchsorted(starts, np.flatnonzero((view < 0x20) | (view >= 0x7F)), "right")).tolist()
    return [row for row in rows if not _normal(array[row].as_py())]


def _normal(text: str) -> bool:
    return text.isprintable() and unicodedata.is_normalized("NFC", text)


def rows_of(mask: pa.Array) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()


def all_of(masks: Sequence[pa.Array]) -> pa.Array:
    found = masks[0]
    for mask in masks[1:]:
        found = pc.and_(found, mask)
    return found
