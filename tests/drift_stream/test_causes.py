"""Which cause is named for which marks in a window."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contract import REJECTS, MonitoredFeature
from stream_processors.comparing import statistics
from stream_processors.drift.quality_heard import QualityHeard
from stream_processors.judging.causes import Cause, Quality, Seen, quality_of, rank
from stream_processors.judging.panes import Key
from stream_processors.judging.verdict import Verdict
from stream_processors.judging.volumes import Volume
from stream_processors.reference import cells
from stream_processors.reference.cells import Counts
from tests.drift_stream.samples import DAY0, HOUR
from tests.drift_stream.test_episodes import PLAIN

REGIONS, SHARES = ("east", "north", "south", "west"), (0.2, 0.4, 0.25, 0.15)
PRICE, REGION = MonitoredFeature("price", "numeric"), MonitoredFeature("region", "categorical")
CODES = ("allowed", "not_null", "range", "syntax", "time_future", "valid")
Columns = Mapping[str, np.ndarray]


def rows(seed: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "price": np.round(rng.lognormal(3, 0.6, n), 2),
        "region": rng.choice(REGIONS, n, p=SHARES).astype(object),
        "reject": np.full(n, "valid", object),
    }


def _built(feature: MonitoredFeature, segment: str, values: np.ndarray) -> cells.FeatureReference:
    return cells.build(feature, segment, pa.array(values), version=1, effective_from=DAY0)


BASE = rows(0, 40_000)
MEMBERS: dict[Key, cells.FeatureReference] = {
    ("price", "*"): _built(PRICE, "*", BASE["price"]),
    ("region", "*"): _built(REGION, "*", BASE["region"]),
    # every code is named, seen or not; here a hundred rows of each but `valid`
    ("reject", "*"): _built(REJECTS, "*", np.array([*CODES[:5] * 2, *["valid"] * 39_990], object)),
    **{("price", f"region={r}"): _built(PRICE, f"region={r}", BASE["price"][BASE["region"] == r]) for r in REGIONS},
}


def counted(window: Columns) -> dict[Key, Counts]:
    sound = window["reject"] == "valid"
    found = {}
    for (feature, segment), reference in MEMBERS.items():
        mask = np.ones(len(sound), bool) if feature == "reject" else sound.copy()
        if segment != "*":
            mask &= window["region"] == segment.partition("=")[2]
        kind = pa.float64() if reference.kind == "numeric" else pa.string()
        found[feature, segment] = cells.count(reference, pa.array(window[feature][mask].tolist(), kind))
    return found


def judged(counts: Mapping[Key, Counts]) -> list[Verdict]:
    made = []
    for (feature, segment), reference in MEMBERS.items():
        told = statistics.compare(reference, counts[feature, segment], 0.001)
        loud = told.statistic is not None and told.critical_value is not None and told.statistic > told.critical_value
        made.append(
            Verdict(**{
                **{name: getattr(PLAIN, name) for name in PLAIN.__slots__},
                "feature": feature, "segment": segment, "kind": reference.kind, "n": told.n, "reference_n": told.reference_n,
                "statistic": told.statistic, "effect": told.effect, "state": "alarm" if loud else "ok", "change": None,
                "quantiles_reference": told.quantiles_reference, "quantiles_window": told.quantiles_window,
            })
        )  # fmt: skip
    return made


def volume(hour: int, window: Columns, late: Mapping[str, int] | None = None) -> Volume:
    sizes = {f"region={r}": int((window["region"] == r).sum()) for r in REGIONS}
    own = late or {}
    parts = tuple((s, n + own.get(s, 0), own.get(s, 0)) for s, n in sorted(sizes.items()))
    total, behind = sum(n for _, n, _ in parts), sum(own.values())
    return Volume(DAY0 + hour * HOUR, total, behind, parts, ((0, total // 2, behind // 2), (1, total - total // 2, behind - behind // 2)))  # fmt: skip


def named(
    window: Columns, *, late: Mapping[str, int] | None = None, quality: Sequence[Quality] = (), after: float = 1.0
) -> list[Cause]:
    counts = counted(window)
    before = [volume(h, rows(100 + h, 2_000)) for h in range(5)]
    now = volume(5, {k: v[window["reject"] == "valid"] for k, v in window.items()}, late)
    return list(
        rank(Seen(DAY0 + 5 * HOUR, DAY0 + 6 * HOUR, judged(counts), MEMBERS, counts, [*before, now], quality, after))
    )


def unit() -> dict[str, np.ndarray]:
    window = rows(1, 2_000)
    window["price"] = np.where(window["region"] == "south", window["price"] * 100, window["price"])
    return window


def without(region: str) -> dict[str, np.ndarray]:
    window = rows(2, 2_600)
    return {k: v[window["region"] != region] for k, v in window.items()}


def changed(column: str, share: float, value: object, only: str | None = None) -> dict[str, np.ndarray]:
    window, rng = rows(3, 2_000), np.random.default_rng(4)
    hit = (rng.random(2_000) < share) & ((window["region"] == only) if only else True)
    window[column] = np.where(hit, value, window[column])
    return window


def mixed() -> dict[str, np.ndarray]:
    window = rows(5, 2_000)
    window["region"] = np.random.default_rng(6).choice(REGIONS, 2_000, p=(0.3, 0.25, 0.25, 0.2)).astype(object)
    return window


def moved() -> dict[str, np.ndarray]:
    window = rows(7, 2_000)
    return {**window, "price": window["price"] * 1.25}


def twice(hour: int, flagged: int) -> Quality:
    return Quality("unique_order", "unique", DAY0 + hour * HOUR, DAY0 + (hour + 1) * HOUR, 2_000, flagged)


@pytest.mark.parametrize(
    ("kind", "place", "causes"),
    [
        ("unit_change", "price", lambda: named(unit())),
        ("unit_change", "price", lambda: named(changed("reject", 0.05, "range"))),
        ("dropped_segment", "region=north", lambda: named(without("north"))),
        ("null_burst", "price", lambda: named(changed("price", 0.1, np.nan))),
        ("null_burst", "not_null", lambda: named(changed("reject", 0.1, "not_null"))),
        ("new_category", "region", lambda: named(changed("region", 0.05, "mars"))),
        ("new_category", "allowed", lambda: named(changed("reject", 0.05, "allowed"))),
        ("mix_change", "region", lambda: named(mixed())),
        ("level_move", "price", lambda: named(moved())),
        ("clock_skew", "region=east", lambda: named(without("east"), late={"region=east": 300})),
        ("clock_skew", "time_future", lambda: named(changed("reject", 0.05, "time_future"))),
        ("duplicate_producer", "region=east", lambda: named(mixed(), quality=[*(twice(h, 2) for h in range(5)), twice(5, 700)])),
    ],
)  # fmt: skip
def test_each_kind_is_named_first_by_its_marks_and_at_its_place(kind, place, causes):
    found = causes()
    assert found and found[0].kind == kind, found
    assert place in found[0].place and found[0].evidence
    assert 1 <= len(found) <= 3 and [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_a_quiet_window_has_no_cause():
    assert named(rows(9, 2_000)) == []


def test_a_segment_that_is_rejected_or_late_is_not_called_dropped():
    for found in (
        named(changed("reject", 1.0, "not_null", only="east")),
        named(without("east"), late={"region=east": 500}),
    ):
        assert found[0].kind != "dropped_segment"
        assert all(c.score < found[0].score / 2 for c in found if c.kind == "dropped_segment")


def test_a_segment_that_dropped_late_in_the_window_is_found_by_what_came_after_the_onset():
    early, late = rows(10, 1_400), without("north")
    window = {k: np.concatenate((early[k], late[k][:600])) for k in early}
    assert named(window)[0].kind == "mix_change"
    assert named(window, after=0.3)[0].kind == "dropped_segment"


def test_a_rule_that_is_always_broken_is_no_duplicate_producer():
    found = named(mixed(), quality=[twice(h, 700) for h in range(6)])
    assert "duplicate_producer" not in [c.kind for c in found]


def test_verdicts_of_whole_runs_and_other_messages_are_left_aside():
    body = {"window_start": "2026-06-01T00:00:00.000Z", "window_end": "2026-06-01T01:00:00.000Z", "rule": "unique_order", "kind": "unique", "rows": 9, "violations": 2}  # fmt: skip
    found = quality_of(body)
    assert found is not None and (found.rule, found.rows, found.violations) == ("unique_order", 9, 2)
    assert quality_of({**body, "window_start": "run"}) is None and quality_of({}) is None


def test_a_rule_that_only_informs_names_no_cause():
    body = {"window_start": "2026-06-01T00:00:00.000Z", "window_end": "2026-06-02T00:00:00.000Z", "rule": "unique_customer_day", "kind": "unique", "rows": 9, "violations": 8}  # fmt: skip
    assert quality_of({**body, "severity": "degraded"}) is not None
    assert quality_of({**body, "severity": "info"}) is None


def test_of_a_rule_and_window_the_newest_verdict_is_heard_and_other_messages_are_not():
    class Said:
        def __init__(self, **body: object):
            self.body = json.dumps(body).encode()

        def value(self) -> bytes:
            return self.body

    told = {"window_start": "2026-06-01T00:00:00.000Z", "window_end": "2026-06-01T01:00:00.000Z", "rule": "unique_order", "kind": "unique", "rows": 9}  # fmt: skip
    heard = QualityHeard("tiny")
    for message in (Said(**told, violations=2), Said(x=1), Said(**told, violations=4)):
        heard.handle(message)  # type: ignore[arg-type]
    assert [q.violations for q in heard.recent()] == [4]


def test_the_same_window_gives_the_same_causes():
    assert named(unit()) == named(unit())
