"""The checker on literal histories: every kind of wrong is found, at its first place."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.checker import BlockRange, DeadRecord, History, RawRecord, check, check_commits, total


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


def without(items, index):
    return [x for i, x in enumerate(items) if i != index]


GOOD = history()
WRONG = {
    "a dead letter is lost": ({"dead": without(GOOD.dead, 0)}, "lost", 3),
    "a dead letter is duplicated": ({"dead": [GOOD.dead[0], *GOOD.dead]}, "duplicated", 3),
    "dead letters are reordered": ({"dead": list(reversed(GOOD.dead))}, "lost", 3),
    "a dead letter of nothing": ({"dead": [*GOOD.dead, DeadRecord(9, d(9))]}, "phantom", 9),
    "a dead letter of a valid record": ({"dead": [DeadRecord(2, d(2)), *GOOD.dead]}, "duplicated", 2),
    "a dead letter with other bytes": ({"dead": [DeadRecord(3, b"?"), GOOD.dead[1]]}, "altered", 3),
    "a valid record is lost": ({"valid": without(GOOD.valid, 5)}, "lost", 7),
    "a valid record in the middle is lost": ({"valid": without(GOOD.valid, 1)}, "reordered", 1),
    "a valid record is duplicated": ({"valid": [*GOOD.valid, d(7)]}, "phantom", 8),
    "valid records are reordered": ({"valid": [d(1), d(0), *GOOD.valid[2:]]}, "reordered", 0),
    "a valid record has other bytes": ({"valid": [*GOOD.valid[:5], b"?"]}, "reordered", 7),
    "a gap between blocks": ({"blocks": [BlockRange(0, 4, (0, 1, 2)), BlockRange(5, 8, (5, 7))]}, "gap", 4),
    "overlapping blocks": ({"blocks": [BlockRange(0, 4, (0, 1, 2)), BlockRange(2, 8, (2, 4, 5, 7))]}, "duplicated", 2),
    "a block twice": ({"blocks": [GOOD.blocks[0], *GOOD.blocks]}, "duplicated", 0),
    "a block without its row": ({"blocks": [BlockRange(0, 4, (0, 2)), GOOD.blocks[1]]}, "lost", 1),
    "a block with a row of nothing": ({"raw": without(GOOD.raw, 7)}, "phantom", 4),
    "the last block is lost": ({"blocks": GOOD.blocks[:1]}, "ahead", 4),
    "the offset is ahead": ({"committed": 9}, "ahead", 8),
    "the lake lost a row": ({"lake": [0, 2, 4, 5, 7]}, "lake_lost", 1),
    "the lake has a row twice": ({"lake": [0, 1, 1, 2, 4, 5, 7]}, "lake_duplicated", 1),
    "the lake has a dead row": ({"lake": [0, 1, 2, 3, 4, 5, 7]}, "lake_phantom", 3),
    "the lake has a row of nothing": ({"lake": [*GOOD.lake, 8]}, "lake_phantom", 8),
    "the lake runs ahead of its position": ({"lake_end": 5}, "ahead", 5),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_finds(what):
    changes, kind, offset = WRONG[what]
    v = check(history(**changes))
    assert not v.ok
    assert (v.found[0].kind, v.found[0].coordinate) == (kind, f"shop.events/0/{offset}")


def test_dead_letters_out_of_order_are_said_so():
    assert "reordered" in [e.kind for e in check(history(dead=list(reversed(GOOD.dead)))).found]


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


def test_replays_are_counted_apart():
    raw = [*GOOD.raw[:7], RawRecord(7, d(7), replay=True)]
    v = check(history(raw=raw))
    assert (v.ok, v.produced, v.replayed, v.consumed) == (True, 7, 1, 8)


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
