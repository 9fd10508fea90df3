"""The checker on literal histories: every kind of wrong is found, at its first place."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.checker import check, check_commits
from batch.history import BlockRange, DeadRecord, History, Marked, Markers, RawRecord, Replay, total
from batch.in_order import InOrder
from batch.revisions import Said, check_revisions


def d(offset: int) -> bytes:
    return b"record %d" % offset


def history(**changes: object) -> History:
    """Raw 0..7; 3 and 6 are dead; two blocks; all in the lake.

    #  raw     0 1 2 3 4 5 6 7
    #  block   [------)[------)
    #  dead          x     x
    """
    good = {
        "name": "shop.events/0",
        "raw": [RawRecord(o, d(o)) for o in range(8)],
        "blocks": [BlockRange(0, 4, (0, 1, 2)), BlockRange(4, 8, (4, 5, 7), late=1)],
        "dead": [DeadRecord(3, d(3)), DeadRecord(6, d(6))],
        "valid": [d(o) for o in (0, 1, 2, 4, 5, 7)],
        "lake": [0, 1, 2, 4, 5, 7],
        "committed": 8,
        "lake_end": 8,
    }
    return History(**{**good, **changes})


def test_a_good_history_adds_up():
    v = check(history())
    assert v.ok, v.found
    assert (v.produced, v.consumed, v.valid, v.dead, v.lake, v.late, v.lag) == (8, 8, 6, 2, 6, 1, 0)
    assert v.open_dead == 2


def without(items, index):
    return [x for i, x in enumerate(items) if i != index]


GOOD = history()
# An aborted transaction wrote record 5 again. Who reads uncommitted data passes it on.
ABORTED = {
    "a phantom of an aborted transaction in the valid topic": (
        {"valid": [*GOOD.valid[:5], b"aborted", d(7)]},
        "phantom",
        8,
    ),
    "a phantom of an aborted transaction in a block": ({"raw": without(GOOD.raw, 5)}, "phantom", 4),
    "a phantom of an aborted transaction among dead letters": ({"raw": without(GOOD.raw, 6)}, "phantom", 6),
    "a phantom of an aborted transaction in the lake": ({"lake": [*GOOD.lake, 8]}, "lake_phantom", 8),
    "an aborted transaction that was read with its repetition": (
        {"valid": [*GOOD.valid[:3], *GOOD.valid]},
        "duplicated",
        0,
    ),
}
WRONG = {
    **ABORTED,
    "a dead letter is lost": ({"dead": without(GOOD.dead, 0)}, "lost", 3),
    "a dead letter is duplicated": ({"dead": [GOOD.dead[0], *GOOD.dead]}, "duplicated", 3),
    "dead letters are reordered": ({"dead": list(reversed(GOOD.dead))}, "reordered", 3),
    "a dead letter of nothing": ({"dead": [*GOOD.dead, DeadRecord(9, d(9))]}, "phantom", 9),
    "a dead letter of a valid record": ({"dead": [DeadRecord(2, d(2)), *GOOD.dead]}, "duplicated", 2),
    "a dead letter with other bytes": ({"dead": [DeadRecord(3, b"?"), GOOD.dead[1]]}, "altered", 3),
    "a valid record is lost": ({"valid": without(GOOD.valid, 5)}, "lost", 7),
    "a valid record in the middle is lost": ({"valid": without(GOOD.valid, 1)}, "lost", 1),
    "a valid record is duplicated": ({"valid": [*GOOD.valid, d(7)]}, "duplicated", 7),
    "a valid record is duplicated in the middle": ({"valid": [d(0), d(1), *GOOD.valid[1:]]}, "duplicated", 1),
    "valid records are reordered": ({"valid": [d(1), d(0), *GOOD.valid[2:]]}, "reordered", 1),
    "a valid record has other bytes": ({"valid": [*GOOD.valid[:5], b"?"]}, "lost", 7),
    "a gap between blocks": ({"blocks": [BlockRange(0, 4, (0, 1, 2)), BlockRange(5, 8, (5, 7))]}, "gap", 4),
    "a watermark of another partition": (
        {"blocks": [BlockRange(0, 4, (0, 1, 2), newest=50), BlockRange(4, 8, (4, 5, 7), watermark=70)]},
        "wrong_watermark",
        4,
    ),
    "overlapping blocks": ({"blocks": [BlockRange(0, 4, (0, 1, 2)), BlockRange(2, 8, (2, 4, 5, 7))]}, "duplicated", 2),
    "a block twice": ({"blocks": [GOOD.blocks[0], *GOOD.blocks]}, "duplicated", 0),
    "a block without its row": ({"blocks": [BlockRange(0, 4, (0, 2)), GOOD.blocks[1]]}, "lost", 1),
    "a block with a row of nothing": ({"raw": without(GOOD.raw, 7)}, "phantom", 4),
    "the last block is lost": ({"blocks": GOOD.blocks[:1]}, "ahead", 4),
    "the offset is ahead": ({"committed": 9}, "ahead", 8),
    "the lake lost a row": ({"lake": [0, 2, 4, 5, 7]}, "lake_lost", 1),
    "the lake has a row twice": ({"lake": [0, 1, 1, 2, 4, 5, 7]}, "lake_duplicated", 1),
    "the lake has a dead row": ({"lake": [0, 1, 2, 3, 4, 5, 7]}, "lake_phantom", 3),
    "the lake runs ahead of its position": ({"lake_end": 5}, "ahead", 5),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_finds(what):
    changes, kind, offset = WRONG[what]
    v = check(history(**changes))
    assert not v.ok
    assert (kind, f"shop.events/0/{offset}") in [(e.kind, e.coordinate) for e in v.found]


@pytest.mark.parametrize(
    "changes, kinds",
    [
        ({"valid": without(GOOD.valid, 1)}, ["lost"]),
        ({"valid": [d(0), d(1), *GOOD.valid[1:]]}, ["duplicated"]),
        ({"valid": [d(1), d(0), *GOOD.valid[2:]]}, ["reordered"]),
        ({"dead": list(reversed(GOOD.dead))}, ["reordered"]),
        ({"valid": [*GOOD.valid[:5], b"?"]}, ["lost", "phantom"]),
    ],
)
def test_one_fault_is_one_finding_and_what_follows_is_compared_again(changes, kinds):
    assert [e.kind for e in check(history(**changes)).found] == kinds


def test_table_commits_follow_each_other():
    assert check_commits("t", [{"0": [0, 5]}, {"1": [0, 2]}, {"0": [5, 9]}]) == []
    assert [(e.kind, e.coordinate) for e in check_commits("t", [{"0": [0, 5]}, {"0": [6, 9]}, {"0": [8, 10]}])] == [
        ("gap", "t/0/5"),
        ("overlap", "t/0/8"),
    ]


def test_missing_and_duplicated_name_their_coordinates():
    assert check(history(dead=[], lake=[0, 1, 1, 2, 4, 5, 7])).missing == ["shop.events/0/3", "shop.events/0/6"]
    assert check(history(lake=[0, 1, 1, 2, 4, 5, 7])).duplicated == ["shop.events/0/1"]


def test_records_above_the_committed_offset_are_lag_and_nothing_else():
    v = check(history(committed=4, lake=[0, 1, 2], lake_end=4))
    assert v.ok, v.found
    assert (v.consumed, v.lag, v.produced, v.valid, v.dead) == (4, 4, 8, 3, 1)


def test_a_lake_that_is_behind_is_a_prefix_and_no_fault():
    v = check(history(lake=[0, 1, 2], lake_end=4))
    assert v.ok, v.found
    assert (v.valid, v.lake) == (6, 3)


# -- replays: 7 is a replay of 3 ---------------------------------------------------------------------------------------

OF_3 = Replay(3, 1)
REPLAYED = [*GOOD.raw[:7], RawRecord(7, d(7), OF_3)]


def test_a_replayed_coordinate_counts_once_and_is_no_longer_open():
    v = check(history(raw=REPLAYED, markers=Markers([Marked(3, OF_3)])))
    assert v.ok, v.found
    assert (v.produced, v.replayed, v.consumed, v.dead, v.open_dead) == (7, 1, 8, 2, 1)


def test_a_record_replayed_twice_is_found():
    raw = [*GOOD.raw[:5], RawRecord(5, d(5), OF_3), *REPLAYED[6:]]
    v = check(history(raw=raw, markers=Markers([Marked(3, OF_3)])))
    assert [(e.kind, e.coordinate) for e in v.found] == [("duplicated", "shop.events/0/3")]


def test_a_letter_with_two_markers_is_found():
    v = check(history(raw=REPLAYED, markers=Markers([Marked(3, OF_3), Marked(3, OF_3)])))
    assert [(e.kind, e.coordinate) for e in v.found] == [("duplicated", "shop.events/0/3")]


def test_a_marker_without_its_record_is_a_loss_unless_it_may_still_come():
    gone = check(history(markers=Markers([Marked(3, OF_3)])))
    assert [(e.kind, e.coordinate) for e in gone.found] == [("lost", "shop.events/0/3")]
    assert check(history(markers=Markers([Marked(3, OF_3, settled=False)]))).ok


def test_a_second_attempt_is_another_replay():
    raw = [*GOOD.raw[:5], RawRecord(5, d(5), OF_3), RawRecord(6, d(6)), RawRecord(7, d(7), Replay(3, 2))]
    v = check(history(raw=raw, markers=Markers([Marked(3, OF_3), Marked(6, Replay(3, 2))])))
    assert (v.ok, v.replayed, v.open_dead) == (True, 2, 0)


def test_who_only_says_that_it_is_a_replay_is_counted_as_produced():
    v = check(history(raw=REPLAYED))
    assert (v.ok, v.produced, v.replayed, v.unmarked) == (True, 8, 0, 1)


# -- what nobody can open ----------------------------------------------------------------------------------------------

#  raw     0 1 2 [3 4 5] 6 7      3..5 in a batch that cannot be opened; 3 has the letter of all three
UNREADABLE = {
    "raw": [RawRecord(o, None if 3 <= o < 6 else d(o)) for o in range(8)],
    "blocks": [BlockRange(0, 3, (0, 1, 2)), BlockRange(3, 6, ()), BlockRange(6, 8, (7,))],
    "dead": [DeadRecord(3, None, True, 6), DeadRecord(6, d(6))],
    "valid": [d(o) for o in (0, 1, 2, 7)],
    "lake": [0, 1, 2, 7],
}


def test_a_range_is_dead_and_quarantined_by_its_offsets():
    v = check(history(**UNREADABLE))
    assert v.ok, v.found
    assert (v.consumed, v.valid, v.dead, v.quarantined, v.open_dead) == (8, 4, 4, 3, 4)


def test_a_range_without_its_letter_is_lost_by_its_offsets():
    v = check(history(**{**UNREADABLE, "dead": GOOD.dead[1:]}))
    assert v.missing == ["shop.events/0/3", "shop.events/0/4", "shop.events/0/5"]


def test_a_watermark_is_carried_over_blocks_without_rows():
    blocks = [BlockRange(0, 3, (0, 1, 2), newest=50), BlockRange(3, 4, (), watermark=50)]
    last = BlockRange(4, 8, (4, 5, 7), watermark=50, newest=40)
    assert check(history(blocks=[*blocks, last])).ok


def test_holes_in_the_offsets_are_no_loss():
    raw = [r for r in GOOD.raw if r.offset not in (4, 5)]
    v = check(
        history(
            raw=raw, blocks=[GOOD.blocks[0], BlockRange(4, 8, (7,))], valid=[d(0), d(1), d(2), d(7)], lake=[0, 1, 2, 7]
        )
    )
    assert v.ok, v.found


def test_without_a_valid_topic_blocks_stand_in():
    assert check(history(valid=None)).ok


def test_nothing_consumed_is_in_order():
    v = check(history(blocks=[], dead=[], valid=[], lake=[], committed=None, lake_end=None))
    assert (v.ok, v.lag, v.produced) == (True, 8, 8)


def test_partitions_add_up():
    whole = total([check(history()), check(history(dead=[]))])
    assert (whole.produced, whole.dead, whole.missing_total, whole.ok) == (16, 2, 2, False)


@given(
    st.sets(st.integers(0, 29)), st.lists(st.integers(1, 29), unique=True, max_size=5), st.integers(0, 30), st.data()
)
def test_any_good_history_passes_and_any_single_loss_is_found(dead, cuts, lake_end, data):
    edges = [0, *sorted(cuts), 30]
    valid = [o for o in range(30) if o not in dead]
    good = {
        "name": "t/0",
        "raw": [RawRecord(o, d(o)) for o in range(30)],
        "blocks": [BlockRange(a, b, tuple(o for o in valid if a <= o < b)) for a, b in itertools.pairwise(edges)],
        "dead": [DeadRecord(o, d(o)) for o in sorted(dead)],
        "valid": [d(o) for o in valid],
        "lake": [o for o in valid if o < lake_end],
        "committed": 30,
        "lake_end": lake_end,
    }
    assert check(History(**good)).ok
    stream = data.draw(st.sampled_from([s for s in ("dead", "valid", "lake", "blocks") if good[s]]))
    lost = data.draw(st.integers(0, len(good[stream]) - 1))
    assert not check(History(**{**good, stream: without(good[stream], lost)})).ok


# -- a log against what should stand in it -----------------------------------------------------------------------------


@given(st.lists(st.sampled_from(b"abcdef"), max_size=30), st.data())
def test_in_order_accounts_for_every_record_once(log, data):
    expected = data.draw(st.permutations(log))[: data.draw(st.integers(0, len(log)))]
    side, window = InOrder([bytes([b]) for b in log]), []
    places = [side.place(bytes([b])) for b in expected]
    window = list(side.surplus(final=True))
    assert places.count("nowhere") == 0
    assert len(window) == len(log) - len(expected)
    if expected == log[: len(expected)]:
        assert set(places) <= {"here"}


def test_a_record_further_away_than_the_window_is_not_found_and_the_rest_is_in_its_place():
    side = InOrder([b"%d" % i for i in [*range(1, 100), 0]], ahead=10)
    assert [side.place(b"%d" % i) for i in range(100)] == ["nowhere", *["here"] * 99]
    assert list(side.surplus(final=True)) == [b"0"]


def test_what_nobody_expected_is_given_up_once_it_is_far_behind():
    side = InOrder([b"stray", *(b"%d" % i for i in range(30))], ahead=10)
    assert [side.place(b"%d" % i) for i in range(30)] == ["here"] * 30
    assert list(side.surplus()) == [b"stray"]


def million(n: int) -> History:
    """A long good history, made as it is read: every hundredth record is dead, every thousandth replayed."""
    size = 1000
    return History(
        name="t/0",
        raw=(RawRecord(o, d(o)) for o in range(n)),
        blocks=(BlockRange(s, s + size, tuple(o for o in range(s, s + size) if o % 100)) for s in range(0, n, size)),
        dead=(DeadRecord(o, d(o)) for o in range(0, n, 100)),
        valid=(d(o) for o in range(n) if o % 100),
        lake=(o for o in range(n) if o % 100),
        committed=n,
        lake_end=n,
    )


def test_memory_does_not_grow_with_the_log():
    def peak(n: int) -> int:
        tracemalloc.start()
        assert check(million(n)).ok
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(45_000), peak(135_000)  # both past the window of records remembered
    assert many <= 1.1 * few


# -- revisions ---------------------------------------------------------------------------------------------------------

SAID = Said("09:00/price/*", 1, "shop@1.0.0", 2, False, b"two")
FINE = {
    "said again": [SAID, SAID],
    "risen": [SAID, SAID._replace(revision=5, digest=b"five")],
    "provisional until final": [SAID._replace(provisional=True, digest=b"x"), SAID._replace(revision=1, digest=b"one")],
    "another reference": [SAID, SAID._replace(reference=2, revision=0, digest=b"new")],
    "another segment": [SAID, SAID._replace(place="09:00/price/region=north", revision=0)],
}
NOT_FINE = {
    "fallen": [SAID, SAID._replace(revision=1)],
    "two contents under one number": [SAID, SAID._replace(digest=b"other")],
    "provisional after final": [SAID, SAID._replace(provisional=True)],
}


@pytest.mark.parametrize("what", FINE)
def test_revisions_that_are_in_order(what):
    assert check_revisions(FINE[what]) == []


@pytest.mark.parametrize("what", NOT_FINE)
def test_a_wrong_revision_is_found(what):
    [example] = check_revisions(NOT_FINE[what])
    assert (example.kind, example.coordinate) == ("wrong_revision", SAID.place)
