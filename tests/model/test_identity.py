"""A training that can be named, repeated and traced: the lake goes on, other files, another process, the same digests."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batch import answer_log, dataset, ledger, models, registry, table, training_child
from batch import model as bundles
from batch.answer_log import request_id
from batch.landed_rows import DEAD_LETTER_SCHEMA, FAILED_DATE
from batch.ledger import Draft, Ledger
from batch.promotion import now
from batch.rebuild import rebuild
from batch.trace import trace
from batch.train import Order, train
from pipeline import contract_file, topics
from pipeline.broker import Broker
from pipeline.errors import CheckFailed
from pipeline.kafka import create_topics, producer, read_all
from pipeline.settings import Settings, from_environment
from pipeline.times import to_text
from tests.conftest import delete_topics, environment_for
from tests.model import lake, made, sales_rows
from tests.model.sales_rows import HOUR_MS, START_MS
from tests.shared.lineage_oracle import as_the_client_writes_it

CONTRACT = contract_file.load("sales")
MODEL = "sales-returned"
DEAD = {0: [100, 101], 1: [7]}  # raw offsets whose records were refused
ROWS = 9_000


@dataclass(frozen=True)
class World:
    settings: Settings
    rows: pl.DataFrame  # events in the lake when the model was trained
    heard: pl.DataFrame  # outcomes
    scores: dict[str, float]  # recorded answers by order
    version: str  # the registry numbers it, and other modules' worlds use the same registry


def refused() -> pl.Expr:
    return pl.any_horizontal(
        (pl.col("raw_partition") == p) & pl.col("raw_offset").is_in(offsets) for p, offsets in DEAD.items()
    )


def fill(settings: Settings, rows: pl.DataFrame, heard: pl.DataFrame, parts: int) -> None:
    for part in range(parts):
        size = -(-rows.height // parts)
        lake.write_events(settings, CONTRACT, rows.slice(part * size, size))
    lake.write_outcomes(settings, CONTRACT, heard)


def dead_letters(settings: Settings) -> None:
    path = table.location(settings, CONTRACT.id, table.DEAD_LETTERS)
    letters = table.Table.create(path, DEAD_LETTER_SCHEMA, FAILED_DATE, {})
    reasons = {100: "range", 101: "range", 7: "null"}
    rows = pl.DataFrame(
        [{"raw_partition": p, "raw_offset": o, "reason": reasons[o]} for p, offsets in DEAD.items() for o in offsets]
    )
    empty = {n: pl.lit(None) for n in DEAD_LETTER_SCHEMA.names if n not in rows.columns}
    whole = rows.with_columns(**empty).select(DEAD_LETTER_SCHEMA.names)
    letters.commit(whole.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(DEAD_LETTER_SCHEMA), {}, {}, {})


@pytest.fixture(scope="module")
def world(broker: Broker, mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Version 1 trained by `driftline train`'s own function, promoted, and its answers about some rows in the log."""
    settings = from_environment(
        {**environment_for(broker, tmp_path_factory.mktemp("world")), "DRIFTLINE_MLFLOW": mlflow_url}
    )
    delete_topics(settings)
    create_topics(settings, topics.all_topics("sales", 2))
    block = sales_rows.draw(ROWS, seed=5)
    every = sales_rows.events(block, 2)
    rows = every.with_columns(raw_offset=pl.col("raw_offset") - pl.col("raw_offset").min().over("raw_partition"))
    rows = rows.filter(~refused())
    heard = sales_rows.outcomes(block).filter(pl.col("topic_offset") % 50 != 0)  # every 50th is missing
    fill(settings, rows, heard, 6)
    dead_letters(settings)
    train(settings, CONTRACT, Order(end=START_MS + 16 * HOUR_MS, search=4))
    book = Ledger(ledger.path_of(settings))
    [entry] = book.entries(MODEL)
    artifact = dict(entry.draft.artifact or {})
    draft = Draft(
        to_text(START_MS),
        MODEL,
        "promote",
        entry.draft.version,
        actor="test",
        reason="first",
        policy="p1",
        artifact=artifact,
    )
    book.crown(draft, None)
    scorer = bundles.load(settings.home / str(artifact["uri"]), str(artifact["sha256"]))
    asked = dataset.with_history(settings, CONTRACT, rows.slice(4_000, 50))
    scores = scorer.score(asked)
    made.answer(settings, CONTRACT, str(entry.draft.version), asked, scores)
    yield World(
        settings, rows, heard, dict(zip(asked["order_id"], scores.tolist(), strict=True)), str(entry.draft.version)
    )


def go_on(world: World) -> None:
    """What a lake meets later: late rows, repeated orders, outcomes that were missing, merged files, old files vacuumed."""
    settings, late = world.settings, world.rows.head(200)
    ends = dict(world.rows.group_by("raw_partition").agg(pl.col("raw_offset").max() + 1).iter_rows())
    again = late.with_columns(
        raw_offset=pl.int_range(pl.len()).cast(pl.Int64) + pl.col("raw_partition").replace_strict(ends),
        append_time=pl.col("append_time") + timedelta(days=2),
        price=pl.col("price") + 1,
    )
    unknown = again.with_columns(
        order_id=pl.concat_str(pl.lit("late-"), "order_id"), raw_offset=pl.col("raw_offset") + 500
    )
    # Had arrived by then, and landed afterwards: history features must not see it.
    unknown = unknown.with_columns(append_time=pl.col("append_time") - timedelta(days=2))
    for rows in (again, unknown):
        lake.write_events(settings, CONTRACT, rows)
    block = sales_rows.draw(ROWS, seed=5)
    missing = sales_rows.outcomes(block).filter(pl.col("topic_offset") % 50 == 0)
    more = missing.with_columns(topic_offset=pl.col("topic_offset") + 2 * ROWS, returned=~pl.col("returned"))
    lake.write_outcomes(settings, CONTRACT, more)
    for name in (table.EVENTS, table.OUTCOMES):
        path = table.location(settings, CONTRACT.id, name)
        assert table.Table(path).merge(1) > 0
        kept = {p.name for _, p in table.live_files(settings, CONTRACT.id, name)}
        for file in path.rglob("*.parquet"):
            if file.name not in kept:
                file.unlink()


def verb(settings: Settings, *argv: str) -> tuple[int, dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "models", *argv, "--json"],
        env={**os.environ, **training_child.environment(settings)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = done.stdout.strip().splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


def test_a_training_is_named_by_all_that_made_it(world: World) -> None:
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    data = entry.draft.data
    assert data["dead_letters"] == {"null": 1, "range": 2} and data["status"] == "ok"
    assert data["contract"] == CONTRACT.name and str(data["features"]).startswith("sales@")
    assert data["asked"] == [None, to_text(START_MS + 16 * HOUR_MS)]
    ends = {
        str(p): [0, e] for p, e in world.rows.group_by("raw_partition").agg(pl.col("raw_offset").max() + 1).iter_rows()
    }
    assert data["read"]["events"] == ends and data["read"]["outcomes"] == {"0": [0, ROWS]}  # type: ignore[index]
    recipe = data["recipe"]
    assert set(recipe["code"]) >= {"driftline", "scikit-learn", "numpy"} and recipe["seed"]  # type: ignore[index,call-overload]


def test_a_card_lies_beside_the_bundle_and_with_the_run(world: World) -> None:
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    data, artifact = entry.draft.data, entry.draft.artifact or {}
    bundle = world.settings.home / str(artifact["uri"])
    page = (bundle.parent / f"{bundle.name}-card.html").read_text()
    for part in (
        data["digest"],
        artifact["sha256"],
        "null 1, range 2",
        "may serve",
        f"models rebuild {entry.draft.version}",
        "Gaps between groups",
    ):
        assert str(part) in page, part
    assert page.count("data:image/png;base64,") == 3 and "http" not in page  # it needs nothing else
    client = registry._client(world.settings)
    assert [f.path for f in client.list_artifacts(data["recipe"]["run_id"], "card")] == [
        f"card/{entry.draft.version}-card.html"
    ]  # type: ignore[index,call-overload]


def test_the_search_stands_with_the_run_and_in_the_recipe(world: World) -> None:
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    recipe = entry.draft.data["recipe"]
    client = registry._client(world.settings)
    run = str(recipe["run_id"])  # type: ignore[index,call-overload]
    table_ = json.loads(Path(client.download_artifacts(run, "search.json")).read_text())
    columns = table_["columns"]
    assert len(table_["data"]) == 4 == recipe["search"] and {"max_leaf_nodes", "log_loss"} <= set(columns)  # type: ignore[index,call-overload]
    assert client.get_run(run).data.params["search"] == "4"


def test_the_online_challenger_stands_in_the_entry_and_goes_on_by_hand(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    first: dict[str, object] = entry.draft.metrics["online"]  # type: ignore[assignment]
    assert first["champion"] == "" and 0 < int(str(first["learned"])) < int(str(entry.draft.data["rows"]))
    capsys.readouterr()
    parser = argparse.ArgumentParser()
    models.Models.configure(parser)
    models.Models.run(parser.parse_args(["online", "--json"]), world.settings)
    now_ = json.loads(capsys.readouterr().out)
    assert now_["champion"] == entry.draft.version and now_["learned"] > first["learned"] and now_["rows"] > 0
    models.Models.run(parser.parse_args(["online"]), world.settings)
    assert f"version {entry.draft.version} over {now_['rows']} labels" in capsys.readouterr().out


def test_a_training_is_told_as_a_run_from_table_versions_to_a_model_version(world: World) -> None:
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    told = [json.loads(m.value()) for m in read_all(world.settings, topics.LINEAGE)]
    start, end = [e for e in told if e["job"]["name"] == f"{MODEL}.train"][:2]
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert all(as_the_client_writes_it(e) == e for e in (start, end))
    versions = [d["facets"]["datasetVersion"]["datasetVersion"] for d in (*end["inputs"], *end["outputs"])]
    data = entry.draft.data
    assert versions == [str(data["table_version"]), str(data["outcomes_version"]), entry.draft.version]
    [status] = end["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (status["assertion"], status["success"], status["actual"]) == ("quality_status", True, "ok")
    tags = {t["key"]: t["value"] for t in end["run"]["facets"]["tags"]["tags"]}
    assert tags["data"] == data["digest"] and tags["bundle"] == (entry.draft.artifact or {})["sha256"]


def test_a_training_that_fails_is_told_with_its_reason(world: World) -> None:
    with pytest.raises(CheckFailed):
        train(world.settings, CONTRACT, Order(end=START_MS + HOUR_MS // 2))
    told = [json.loads(m.value()) for m in read_all(world.settings, topics.LINEAGE)]
    assert told[-1]["eventType"] == "FAIL" and as_the_client_writes_it(told[-1]) == told[-1]
    assert "rows" in told[-1]["run"]["facets"]["errorMessage"]["message"]


def test_a_prediction_is_traced_to_offsets_and_dead_letters(world: World) -> None:
    order, score = next(iter(world.scores.items()))
    [row] = world.rows.filter(pl.col("order_id") == order).iter_rows(named=True)
    coordinate = f"sales.events[{row['raw_partition']}]@{row['raw_offset']}"
    by_key = trace(world.settings, CONTRACT, MODEL, order).json()
    assert by_key["prediction"]["score"] == score and not by_key["inferred"]  # type: ignore[index]
    assert by_key["row"]["offset"] == row["raw_offset"]  # type: ignore[index]
    assert (by_key["decision"]["seq"], by_key["training"]["seq"]) == (2, 1)  # type: ignore[index]
    assert by_key["bundle"]["intact"]  # type: ignore[index]
    assert by_key["training"]["data"]["dead_letters"] == {"null": 1, "range": 2}  # type: ignore[index]
    assert set(by_key["absent"]) <= {"outcome"}  # type: ignore[arg-type]
    files = by_key["files"]
    assert (
        isinstance(files, list) and 1 < len(files) < 6 and all(f["there"] for f in files)
    )  # the last part is too young
    identity = str(by_key["prediction"]["id"])  # type: ignore[index]
    for asked in (coordinate, coordinate.removeprefix("sales.events[").replace("]", ""), identity):
        assert {**trace(world.settings, CONTRACT, MODEL, asked).json(), "asked": order} == by_key
    code, told, error = verb(world.settings, "trace", order)
    assert code == 0 and told == json.loads(json.dumps(by_key)), error
    said = trace(world.settings, CONTRACT, MODEL, order).text()
    for part in (
        identity,
        coordinate,
        "ledger entry 2, promote",
        "table version 6",
        "dead letters left out: null 1, range 2",
        "the chain holds",
    ):
        assert part in said, said


def test_an_id_finds_its_answer_among_those_of_its_time_only(world: World) -> None:
    order = list(world.scores)[-1]
    [body] = [b for b in logged(world.settings) if b["order_id"] == order]
    at = int(time.time() * 1000) + 1_200_000  # behind all that the log holds, as time goes on in it
    soon, late, untimed = (f"{request_id(at, os.urandom(10))}-0", f"{request_id(at, os.urandom(10))}-1", f"{uuid.uuid4().hex}-0")  # fmt: skip
    client = producer(world.settings, "test-log")
    for id, delay in ((untimed, 0), (soon, 90_000), (late, 600_000)):
        entry = json.dumps({**body, "id": id, "at": to_text(at + delay)}).encode()
        client.produce(topics.predictions("sales"), entry, partition=0, timestamp=at + delay)
    assert client.flush(10) == 0
    topic = topics.predictions("sales")
    found = [answer_log.find(world.settings, topic, id, deadline_s=20) for id in (soon, late, untimed, str(body["id"]))]
    assert [f and f["id"] for f in found] == [soon, None, None, body["id"]]
    for id in (soon, untimed, late):  # without a time all of the log is read, and of a late one what came since
        told = trace(world.settings, CONTRACT, MODEL, id).prediction
        assert told is not None and told["id"] == id
    with pytest.raises(CheckFailed, match="holds no answer about"):
        trace(world.settings, CONTRACT, MODEL, f"{request_id(at, os.urandom(10))}-2")


def logged(settings: Settings) -> list[dict[str, object]]:
    return [json.loads(m.value()) for m in read_all(settings, topics.predictions("sales"))]


def test_a_trace_of_a_stopped_stack_tells_what_is_absent(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = next(iter(world.scores))
    monkeypatch.setattr("batch.trace.REACH_S", 1.0)
    stopped = replace(world.settings, bootstrap="127.0.0.1:9")
    found = trace(stopped, CONTRACT, MODEL, order)
    assert found.prediction is None and "no broker" in found.absent["prediction"]
    assert found.inferred and found.version == world.version and found.training and found.files
    assert "inferred" in found.text() and "prediction: absent: no broker" in found.text()
    late = Ledger(ledger.path_of(replace(stopped, home=tmp_path)))  # a promotion after the row arrived
    for entry in Ledger(ledger.path_of(stopped)).entries(MODEL):
        crowned = entry.draft.action == "promote"
        late.crown(replace(entry.draft, at=now()), None) if crowned else late.append(entry.draft)
    unknown = trace(replace(stopped, home=tmp_path), CONTRACT, MODEL, order)
    assert unknown.version is None and "knows no champion at" in unknown.absent["decision"]
    with pytest.raises(CheckFailed, match="no lake at"):
        trace(replace(stopped, home=tmp_path, lake=str(tmp_path / "lake")), CONTRACT, MODEL, order)


def test_what_never_became_a_row_is_named(world: World) -> None:
    with pytest.raises(CheckFailed, match="0@100 is a dead letter: range"):
        trace(world.settings, CONTRACT, MODEL, "sales.events[0]@100")
    with pytest.raises(CheckFailed, match="holds no answer about o-none"):
        trace(world.settings, CONTRACT, MODEL, "o-none")


def test_another_process_makes_the_same_bundle_from_a_lake_that_went_on(world: World, tmp_path: Path) -> None:
    go_on(world)
    code, told, said = verb(world.settings, "rebuild", world.version, "--out", str(tmp_path / "again"))
    assert code == 0, said
    assert told["same_data"] and told["bundle"]["equal"] and told["differs"] == []  # type: ignore[index]
    [entry, _] = Ledger(ledger.path_of(world.settings)).entries(MODEL)
    assert bundles.digest_of(tmp_path / "again") == (entry.draft.artifact or {})["sha256"]
    files = trace(world.settings, CONTRACT, MODEL, next(iter(world.scores))).files
    assert files and not any(f["there"] for f in files)


def test_a_rebuild_finds_a_row_that_changed_and_a_lake_that_is_behind(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = replace(world.settings, home=home, lake=str(home / "lake"))
    home.mkdir()
    shutil.copy(ledger.path_of(world.settings), ledger.path_of(settings))
    changed = pl.when(pl.col("order_id") == world.rows["order_id"][3_000]).then(pl.col("price") + 0.01)
    fill(settings, world.rows.with_columns(price=changed.otherwise(pl.col("price"))), world.heard, 1)
    found = rebuild(settings, CONTRACT, MODEL, world.version)
    assert found.rows.equal and not found.digest.equal and found.bundle is None
    assert found.fault and "rows of digest" in found.fault and found.code.equal
    with pytest.raises(CheckFailed, match=r"expected the contract sales@1\.0\.0 .*, got sales@9"):
        rebuild(settings, replace(CONTRACT, version="9"), MODEL, world.version)
    with pytest.raises(CheckFailed, match="knows no trained version 9"):
        rebuild(settings, CONTRACT, MODEL, "9")
    shutil.rmtree(settings.lake)
    fill(settings, world.rows.head(6_000), world.heard, 1)
    with pytest.raises(CheckFailed, match=r"expected events up to offset .*, the lake holds"):
        rebuild(settings, CONTRACT, MODEL, world.version)


def test_lines_that_a_later_line_cancels_keep_the_labels_that_they_were_trained_with(tmp_path: Path) -> None:
    """A label made of the same table: a cancellation that arrives after the training belongs to another training."""
    retail, start = contract_file.load("online_retail"), datetime(2011, 1, 3, tzinfo=UTC)
    settings = from_environment({"DRIFTLINE_HOME": str(tmp_path)})

    def lines(offset: int, *days: tuple[float, str]) -> pl.DataFrame:
        made = [
            {"InvoiceNo": f"{kind}{offset + i}", "StockCode": "s1", "Description": None, "Quantity": 1, "UnitPrice": 2.5,
             "InvoiceDate": start + timedelta(days=day), "CustomerID": "c1", "Country": "France",
             "raw_partition": 0, "raw_offset": offset + i, "append_time": start + timedelta(days=day)}
            for i, (day, kind) in enumerate(days)
        ]  # fmt: skip
        return pl.DataFrame(made, schema_overrides={"Description": pl.String, "raw_partition": pl.Int32})

    lake.write_events(settings, retail, lines(0, (0, ""), (1, "C"), (2, ""), (60, "")))
    first = dataset.labelled(settings, retail)
    assert first.rows["label"].to_list() == [True, False]
    lake.write_events(settings, retail, lines(4, (3, "C"), (90, "")))  # late
    again = dataset.again(settings, retail, dataset.identity_of(json.loads(json.dumps(first.identity.json()))))
    assert again.identity.digest == first.identity.digest and again.rows.equals(first.rows)
    assert dataset.labelled(settings, retail).rows["label"].to_list()[:2] == [True, True]


SMALL = sales_rows.events(sales_rows.draw(40, seed=9), 3)


@given(
    st.permutations(range(40)), st.integers(0, 39), st.sampled_from(["price", "order_id", "raw_offset", "append_time"])
)
@hypothesis_settings(max_examples=40)
def test_a_digest_depends_on_the_rows_and_on_nothing_else(order: list[int], at: int, column: str) -> None:
    digest = dataset.content_digest(SMALL)
    assert dataset.content_digest(SMALL[order].rechunk()) == digest
    assert dataset.content_digest(pl.concat([SMALL[order[:at]], SMALL[order[at:]]])) == digest
    other = {"order_id": pl.lit("x"), "append_time": pl.col("append_time") + timedelta(milliseconds=1)}
    touched = (
        pl.when(pl.int_range(pl.len()) == at).then(other.get(column, pl.col(column) + 1)).otherwise(pl.col(column))
    )
    assert dataset.content_digest(SMALL.with_columns(touched.alias(column))) != digest
    assert dataset.content_digest(SMALL[:at]) != digest
    nothing = pl.when(pl.int_range(pl.len()) == at).then(None).otherwise(pl.col("quantity"))
    zero = pl.when(pl.int_range(pl.len()) == at).then(0).otherwise(pl.col("quantity"))
    assert dataset.content_digest(SMALL.with_columns(quantity=nothing)) != dataset.content_digest(
        SMALL.with_columns(quantity=zero)
    )
