"""Episodes and verdicts in a terminal of 80 columns."""

from __future__ import annotations

import json
from dataclasses import replace

from stream_processors.judging import told
from stream_processors.judging.alert import Share
from stream_processors.judging.causes import Cause
from tests.drift_stream.test_episodes import PLAIN, window
from tests.drift_stream.test_episodes import told as alerts_of

LONG = "region=a%20name%20that%20is%20longer%20than%20any%20column,channel=partner"
CAUSES = (
    Cause("dropped_segment", "region=south", 0.84, "region=south makes 0.0% of the rows since the onset instead of 22.0%"),
    Cause("mix_change", "region", 0.6, "shares of region moved by up to 22.0%"),
)  # fmt: skip


def alerts() -> list[told.Json]:
    found = alerts_of(window(0, "alarm"), window(1, "alarm"), window(2, "ok"))
    segments = (Share("price", "region=north", 0.3, 0.9, 12.5), Share("price", LONG, 0.2, 0.1, None))
    return [json.loads(replace(a, causes=CAUSES, segments=segments).to_bytes()) for a in found]


def test_an_episode_is_told_with_its_changes_onset_causes_and_carriers_in_80_columns():
    lines = list(told.episodes(alerts()))
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80
    for part in (
        "resolved, returned", "firing 2026-06-01 00:35; resolved 2026-06-01 03:00", "interval without stated coverage",
        "cause 1 dropped_segment region=south (0.84)", CAUSES[0].evidence, "price * shift +0.4 sd, effect 0.2",
        "region=north 90% of it with 30% of the rows",
    ):  # fmt: skip
        assert part in text, part
    assert LONG in text.replace(" ", "")  # broken over lines, not cut off


def test_two_episodes_are_two_paragraphs():
    first = alerts()
    second = [{**a, "episode": "another"} for a in first]
    lines = list(told.episodes([*first, *second]))
    assert lines.count("") == 1 and "another: resolved, returned" in lines


def test_a_table_of_verdicts_fits_and_cuts_nothing_off():
    long = replace(PLAIN, segment=LONG, state="alarm", e_value=123.456, p_value=1.2e-34, provisional=True, revision=12)
    small = replace(PLAIN, feature="quantity", state="reference_too_small", statistic=None, p_value=None, e_value=None)
    at = {"window_start": "2026-06-01T00:00:00.000Z", "window_end": "2026-06-01T01:00:00.000Z"}
    lines = list(told.verdicts([{**json.loads(v.to_bytes()), **at} for v in (PLAIN, long, small)]))
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80
    for part in (
        LONG,
        "1.2e-34",
        "123.5",
        "provisional, revision 12, shift +0.4 sd, threshold 9",
        "reference_too_small",
    ):
        assert part in text, part
    assert lines[0] == "2026-06-01 00:00 to 2026-06-01 01:00"


def test_rows_of_another_model_are_told_by_number():
    verdict = json.loads(replace(window(0, "ok").verdicts[0], feature="score", other_model=120).to_bytes())
    assert "120 rows answered by another model" in " ".join(" ".join(told.verdicts([verdict])).split())
