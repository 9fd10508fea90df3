"""Thirty kills of everything under live load, and the parts that judge them: schedule, independent look, ages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.faults import plain, plot, undisturbed
from tests.faults.faults import recovery
from tests.faults.observe import Sample, ages
from tests.faults.processes import ROOT
from tests.faults.schedule import POINTS, SHARES, START_POINTS, counts, draw, due

KILLS, SEED = 30, 7
REQUIRED = {
    "fired": KILLS,
    "lost": 0,
    "duplicated": 0,
    "verify_ok_and_drained": 1,
    "altered_or_out_of_order": 0,
    "partitions_not_as_sent": 0,
    "verdicts_that_differ": 0,
    "zombies_not_fenced": 0,
    "ended_by_crash": 0,
}


@pytest.mark.timeout(900)
def test_thirty_kills_lose_nothing_double_nothing_and_change_no_verdict(tmp_path: Path):
    command = ["faults", "--kills", str(KILLS), "--seed", str(SEED), "--json", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command], cwd=ROOT, capture_output=True, text=True, timeout=850
    )
    assert done.stdout, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    bars = {b["name"]: b["value"] for b in report["bars"]}
    assert {name: bars[name] for name in REQUIRED} == REQUIRED, f"{report['figures']}\n{done.stderr[-3000:]}"
    assert done.returncode == 0
    assert report["figures"]["kills_by_kind"] == counts(KILLS)
    assert report["figures"]["rebalances"] == [4, 2]
    assert (report["kills"], report["fired"], report["verdicts_equal"]) == (KILLS, KILLS, True)
    assert (tmp_path / "faults.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "series.json").read_text())["kills"]) == KILLS


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_the_seed_replays_the_schedule():
    assert draw(100, 3) == draw(100, 3)
    assert draw(100, 3) != draw(100, 4)


@pytest.mark.parametrize("kills", [1, 2, 7, 30, 100, 1000])
def test_a_schedule_has_as_many_kills_as_were_asked_for(kills):
    found = draw(kills, 1)
    assert found.kills == sum(counts(kills).values()) == kills
    assert {kind: len(own) for kind, own in found.others.items()} == {k: n for k, n in counts(kills).items() if k != "validator"}  # fmt: skip


def test_a_thousand_kills_have_the_stated_shares_and_strike_at_every_point():
    found = draw(1000, 7)
    assert counts(1000) == SHARES
    every = [k for r in found.rounds for own in r.kills for k in own] + [
        k for own in found.others.values() for k in own
    ]
    aimed = {(k.kind, k.point) for k in every if k.point}
    assert aimed == {(kind, p) for kind in SHARES for p in (*POINTS[kind], *START_POINTS[kind])}
    assert [r.members for r in found.rounds[:3]] == [1, 4, 2]


def test_no_lane_begins_with_a_point_that_only_a_successor_passes():
    for seed in range(20):
        found = draw(200, seed)
        lanes = [own for r in found.rounds for own in r.kills] + list(found.others.values())
        assert not [lane[0] for lane in lanes if lane and (lane[0].starting or lane[0].hasty)]


def test_other_kills_are_spread_over_the_validators_kills():
    assert [due(i, 2) for i in range(2)] == [0.2, 0.6]


# -- the independent look ----------------------------------------------------------------------------------------------

RAW = [(0, b"a"), (1, b"b"), (2, b"c"), (4, b"d")]  # offset 3 is no record
CLEAN = {"valid": [b"a", b"c", b"d"], "dead": [(1, b"b")], "lake": [0, 2, 4]}


@pytest.mark.parametrize(
    ("change", "lost", "duplicated", "altered"),
    [
        ({}, 0, 0, 0),
        ({"valid": [b"a", b"d"]}, 1, 0, 0),
        ({"valid": [b"a", b"c", b"c", b"d"]}, 0, 1, 0),
        ({"valid": [b"c", b"a", b"d"]}, 0, 0, 1),
        ({"valid": [b"a", b"b", b"c", b"d"]}, 0, 1, 0),  # valid and dead
        ({"dead": []}, 2, 0, 0),  # neither in the valid topic nor in the lake
        ({"dead": [(1, b"b"), (1, b"b")]}, 0, 1, 0),
        ({"dead": [(1, b"x")]}, 0, 0, 1),
        ({"lake": [0, 2]}, 1, 0, 0),
        ({"lake": [0, 2, 2, 4]}, 0, 1, 0),
        ({"lake": [0, 1, 2, 4]}, 0, 1, 0),
    ],
)
def test_the_plain_look_counts_what_is_lost_doubled_and_altered(change, lost, duplicated, altered):
    found, have = plain.Found(), {**CLEAN, **change}
    plain.compare(found, 0, RAW, have["valid"], have["dead"], np.array(have["lake"]))
    assert (found.lost, found.duplicated, found.altered) == (lost, duplicated, altered)
    assert bool(found.examples) == any((lost, duplicated, altered))


def digests(*values: bytes) -> list[bytes]:
    return [plain.hashlib.sha256(b"k" + v).digest() for v in values]


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        ([b"1", b"2", b"8", b"9"], False),  # both runs to some point
        ([b"8", b"9"], False),  # the first was killed before anything arrived
        ([b"1", b"3", b"8"], True),  # a hole within a run
        ([b"1", b"2", b"2"], True),
        ([b"1", b"8", b"2"], True),
    ],
)
def test_the_raw_topic_is_a_beginning_of_each_producers_run(raw, wrong):
    runs = [[(b"k", b"1"), (b"k", b"2"), (b"k", b"3")], [(b"k", b"8"), (b"k", b"9")]]
    p = plain.partition_of(b"k", 2)
    assert bool(plain.unlike_sent({p: digests(*raw), 1 - p: []}, runs, 2)) == wrong


def test_verdicts_that_differ_or_are_missing_are_named():
    one, other = {("w", "f", "*"): b"1", ("w", "g", "*"): b"2"}, {("w", "f", "*"): b"1", ("w", "g", "*"): b"3"}
    assert undisturbed.differences(one, dict(one)) == []
    assert undisturbed.differences(one, other) == ["w/g/*: b'2' against b'3'"]
    assert undisturbed.differences(one, {}) == ["w/f/*: b'1' against None", "w/g/*: b'2' against None"]


# -- figures -----------------------------------------------------------------------------------------------------------


def sample(at: float, raw: int, validated: int) -> Sample:
    done = {"validator": {0: validated}, "compactor": {0: validated}, "drift": {0: 0}}
    return Sample(at, {0: raw}, {0: 0}, done)


def test_the_oldest_unread_record_is_as_old_as_the_sample_that_first_showed_it():
    #  at     0   1   2   3   4
    #  end   10  20  30  30  30      the record at 15 was first seen at 1
    #  done  10  15  15  29  30
    samples = [sample(0, 10, 10), sample(1, 20, 15), sample(2, 30, 15), sample(3, 30, 29), sample(4, 30, 30)]
    assert ages(samples, "validator") == [0, 0, 1, 1, 0]
    assert plot.series(samples)["age"]["validator"] == [0, 0, 1, 1, 0]


def test_an_age_grows_while_nobody_answers():
    samples = [sample(0, 10, 10), sample(1, 20, 15), sample(5, 30, 15)]
    assert plot.series(samples)["age"]["validator"] == [0, 0, 1, 2, 3, 4]


def test_a_stage_is_recovered_when_all_that_was_there_is_dealt_with():
    assert not sample(0, 20, 19).reached("validator", {0: 20})
    assert sample(0, 30, 20).reached("validator", {0: 20})


def test_recovery_counts_only_what_was_awaited():
    from tests.faults.campaign import Struck

    struck = [Struck(0.0, "validator", "random", s) for s in (1.0, 2.0, 3.0)] + [Struck(0.0, "validator", "random")]
    assert recovery(struck) == {"n": 3, "p50": 2.0, "p99": 2.98, "max": 3.0}
