"""The checkers catch planted bugs; `driftline faults --planted` plants all of them."""

from __future__ import annotations

from tests.faults import planted, planted_judge


def test_some_planted_bugs_are_caught_and_where_there_is_none_nothing_is_found():
    found = planted.run(3, print, only=planted.QUICK)
    assert [p for p in found if not p.caught] == []
    assert [p.name for p in found] == [planted.CONTROL, *planted.QUICK]


def test_bugs_of_the_judge_are_caught_by_unequal_verdicts():
    assert planted_judge.disturbed() == 0
    assert [name for name, by in planted_judge.run(1) if not by] == []
