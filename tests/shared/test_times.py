"""Times go to text and back without loss, over the whole calendar."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.times import to_ms, to_text

calendar = st.integers(to_ms("0001-01-01T00:00:00.000Z"), to_ms("9999-12-31T23:59:59.999Z"))


@given(calendar)
@example(to_ms("4845-01-01T00:00:00.002Z"))
def test_every_millisecond_comes_back(ms: int) -> None:
    assert to_ms(to_text(ms)) == ms


def test_half_a_millisecond_is_rounded_to_the_even_one() -> None:
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000
    assert [to_ms(f"2026-01-01T00:00:00.{us:06}Z") - start for us in (500, 1500, 2500, 1499)] == [0, 2, 2, 1]
