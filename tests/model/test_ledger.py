"""The ledger: a chain that shows every edit, and a champion that only one of two promoters can move."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from batch import ledger
from batch.ledger import ChampionMoved, Draft, Ledger, LedgerBroken

AT = "2026-11-21T03:00:00.000Z"


def draft(action: ledger.Action, version: str | None = None, **more: object) -> Draft:
    return Draft(at=AT, model="m", action=action, version=version, actor="test", **more)  # type: ignore[arg-type]


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "home" / "ledger.db")
    found.append(draft("train", "1", artifact={"uri": "models/m/1", "sha256": "aa"}))
    found.crown(draft("promote", "1"), None)
    found.append(draft("train", "2", metrics={"auc": 0.75}, episode="e1"))
    return found


def test_the_champion_is_the_last_promote_or_rollback(book: Ledger) -> None:
    assert ledger.champion(book.entries("m")).draft.version == "1"
    entry = book.crown(draft("promote", "2"), "1")
    assert (entry.draft.former, ledger.champion(book.entries("m")).draft.version) == ("1", "2")
    book.crown(draft("rollback", "1"), "2")
    lines = [e.json() for e in book.entries()]
    assert ledger.champion_of(lines, "m")["version"] == "1"
    assert ledger.champion_of(lines + lines[:2], "m")["version"] == "1"  # a repeated line says nothing new
    assert ledger.champion_of(lines, "other") is None


def test_every_entry_names_the_champion_of_its_time_whatever_its_writer_believed(book: Ledger) -> None:
    assert [e.draft.former for e in book.entries("m")] == [None, None, "1"]
    book.append(draft("hold", former="7", episode="e2"))
    book.append_once(draft("refuse", "2", reason="by hand"))
    book.decide(draft("accept", "1", episode="e2"))
    book.crown(draft("promote", "2"), "1")
    book.append(replace(draft("train", "9"), model="another"))
    said = [(e.draft.model, e.draft.former) for e in book.entries()]
    assert said[3:] == [("m", "1")] * 4 + [("another", None)]


def test_the_way_back_leads_to_no_model_that_service_was_taken_from(book: Ledger) -> None:
    assert ledger.fallback(book.entries("m")) is None
    for version, former in (("2", "1"), ("3", "2")):
        book.crown(draft("promote", version), former)
    assert ledger.fallback(book.entries("m")) == "2"
    book.crown(draft("rollback", "2"), "3")
    assert ledger.fallback(book.entries("m")) == "1"  # not 3, which was the one before
    book.crown(draft("rollback", "1"), "2")
    assert ledger.fallback(book.entries("m")) is None


def test_a_promotion_against_a_champion_that_moved_is_refused_and_writes_nothing(book: Ledger) -> None:
    with pytest.raises(ChampionMoved, match="expected champion None, it is 1"):
        book.crown(draft("promote", "2"), None)
    assert len(book.entries()) == 3


def test_the_chain_holds_and_is_the_same_after_reopening(book: Ledger) -> None:
    assert book.verify() == 3
    assert Ledger(book.path).entries() == book.entries()
    assert [ledger.from_json(json.dumps(e.json())) for e in book.entries()] == book.entries()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "update entries set body = replace(body, '0.75', '0.95') where seq = 3",
            "entry 3: its content does not give its hash",
        ),
        ('update entries set body = replace(body, \'"actor":"test"\', \'"actor":"eve"\') where seq = 2', "entry 2"),
        ("delete from entries where seq = 2", "entry 3: expected seq 2"),
        ("update entries set body = (select body from entries where seq = 1) where seq = 2", "entry 2"),
        ("update entries set seq = 9 where seq = 2", "entry 3: expected seq 2"),  # put behind the others
        (
            "update entries set seq = case seq when 2 then -3 else -2 end where seq > 1; update entries set seq = -seq",
            "entry",
        ),
        ("update entries set body = 'nothing' where seq = 3", "entry 3: expected an entry as JSON"),
        ("""update entries set body = '{"seq":3}' where seq = 3""", "entry 3: expected an entry as JSON"),
    ],
)
def test_an_edited_line_is_found(book: Ledger, sql: str, said: str) -> None:
    with sqlite3.connect(book.path) as db:
        db.executescript(sql)
    with pytest.raises(LedgerBroken, match=said):
        book.verify()


def rewritten(book: Ledger, upto: int, actor: str) -> None:
    """Lines 1..upto again with another actor and sound hashes, the others gone: what a forger who knows the chain does."""
    drafts = [e.draft for e in book.entries()][:upto]
    with sqlite3.connect(book.path) as db:
        db.execute("delete from entries")
        for one in drafts:
            ledger._insert(db, replace(one, actor=actor))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda book: sqlite3.connect(book.path).executescript("delete from entries where seq = 3"), "ends at entry 2"),
        (lambda book: sqlite3.connect(book.path).executescript("delete from entries"), "ends at entry 0"),
        (lambda book: rewritten(book, 3, "eve"), "the file has"),
        (lambda book: rewritten(book, 2, "test"), "ends at entry 2"),
    ],
)
def test_what_the_chain_cannot_show_its_copy_in_kafka_does(book: Ledger, damage, said: str) -> None:
    copy = [e.json() for e in book.entries()]
    ledger.check_copy(book.entries(), copy)
    ledger.check_copy(book.entries(), copy[:1] + copy[:1])  # the file may be ahead, and a line may be repeated
    damage(book)
    book.verify()  # the chain itself holds
    with pytest.raises(LedgerBroken, match=said):
        ledger.check_copy(book.entries(), copy)


def test_who_was_champion_then(tmp_path: Path) -> None:
    #  00:00 train 1   01:00 promote 1   02:00 promote 2   03:00 rollback to 1
    book = Ledger(tmp_path / "ledger.db")
    at = lambda hour: f"2026-11-21T0{hour}:00:00.000Z"  # noqa: E731
    book.append(replace(draft("train", "1"), at=at(0)))
    book.crown(replace(draft("promote", "1"), at=at(1)), None)
    book.crown(replace(draft("promote", "2"), at=at(2)), "1")
    book.crown(replace(draft("rollback", "1"), at=at(3)), "2")
    asked = ["2026-11-21T00:59:59.999Z", at(1), "2026-11-21T01:59:59.999Z", at(2), "2027-01-01T00:00:00.000Z"]
    then = [ledger.champion_at(book.entries("m"), time) for time in asked]
    assert [e and (e.draft.action, e.draft.version) for e in then] == [
        None,
        ("promote", "1"),
        ("promote", "1"),
        ("promote", "2"),
        ("rollback", "1"),
    ]
    assert ledger.rolled_back(book.entries("m")) == {"2"}


def test_a_line_that_was_edited_with_its_hash_breaks_the_chain_behind_it(book: Ledger) -> None:
    first = book.entries()[0]
    forged = ledger.Draft(**{**{k: getattr(first.draft, k) for k in Draft.__slots__}, "actor": "eve"})
    entry = ledger.Entry(1, forged, first.prev, ledger.entry_hash(1, forged, first.prev))
    with sqlite3.connect(book.path) as db:
        db.execute("update entries set body = ? where seq = 1", (ledger.canonical(entry.json()),))
    with pytest.raises(LedgerBroken, match="entry 2: expected prev"):
        book.verify()


def test_a_number_that_json_does_not_know_is_refused(book: Ledger) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        book.append(draft("train", "3", metrics={"auc": float("nan")}))
    assert book.verify() == 3


def test_an_episode_gets_one_final_decision(book: Ledger) -> None:
    first = book.decide(draft("accept", "1", episode="e1", reason="inputs moved", also=("e2",)))
    assert book.decide(draft("fixed_upstream", episode="e1")) == first
    assert book.decide(draft("accept", "1", episode="e2")) == first
    assert set(ledger.decided(book.entries("m"))) == {"e1", "e2"}


def test_the_same_hold_is_written_once(book: Ledger) -> None:
    hold = draft("hold", episode="e9", reason="fewer than 20000 labelled rows since the onset")
    assert book.append_once(hold) is not None
    assert book.append_once(hold) is None
    assert book.append_once(draft("hold", episode="e9", reason="cooldown")) is not None
    with pytest.raises(ValueError, match="compares before it swaps"):
        book.append(draft("promote", "2"))


def test_what_is_of_no_episode_is_the_same_only_with_its_metrics(book: Ledger) -> None:
    """Two watches may end with one sentence; the second must stand in the ledger, or it would never end."""
    assert book.append_once(draft("keep", reason="too few answers", metrics={"watch": 2})) is not None
    assert book.append_once(draft("keep", reason="too few answers", metrics={"watch": 2})) is None
    assert book.append_once(draft("keep", reason="too few answers", metrics={"watch": 5})) is not None


def _promote(path: Path, version: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        Ledger(path).crown(draft("promote", version), "1")
        results.put((version, True))  # type: ignore[attr-defined]
    except ChampionMoved:
        results.put((version, False))  # type: ignore[attr-defined]


def test_of_several_promoters_in_processes_of_their_own_one_wins(book: Ledger) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_promote, args=(book.path, str(v), start, results)) for v in range(2, 8)]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(10)
    assert sum(won for _, won in found) == 1
    assert ledger.champion(book.entries("m")).draft.version == next(v for v, won in found if won)
    assert book.verify() == 4
