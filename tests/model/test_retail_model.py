"""The second contract's model: what it may see, on real invoice lines; and how its bench cuts time and states intervals."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batch import fitting, labels, train
from batch.labels import LABEL
from pipeline import contract_file, decode
from pipeline.contract import APPEND_TIME, MatchLabel, Reject
from pipeline.times import to_ms, to_text
from producers import replay
from stream_processors.live import feature_plan, feature_replay, model_features
from tests.bench import _retail_model as bench

RETAIL = contract_file.load("online_retail")
SLICE = Path(__file__).parents[1] / "data" / "online-retail-slice.parquet"
CLOCK = RETAIL.time.field


@pytest.fixture(scope="module")
def lines() -> pl.DataFrame:
    """Valid lines of the slice as the lake holds them, each arriving when it was written."""
    decoder = decode.compile(RETAIL)
    rows = [decoder.decode(v) for batch in replay.stream(RETAIL, SLICE) for v in batch.values if v is not None]
    valid = pl.DataFrame([r for r in rows if not isinstance(r, Reject)], infer_schema_length=None)
    # Lines of one minute arrive one after the other, as on the stream.
    arrived = pl.col(CLOCK) + pl.duration(milliseconds=pl.int_range(pl.len()).over(CLOCK))
    return valid.with_row_index("raw_offset").with_columns(
        pl.col("raw_offset").cast(pl.Int64), pl.lit(0, pl.Int32).alias("raw_partition"), arrived.alias(APPEND_TIME)
    )


def labelled(lines: pl.DataFrame) -> pl.DataFrame:
    assert isinstance(RETAIL.label, MatchLabel)
    return labels.by_match(lines.lazy(), RETAIL.label, CLOCK)[0].collect().sort(APPEND_TIME)


def with_past(rows: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    history = feature_plan.compiled(RETAIL)
    assert history is not None
    return rows.with_columns(feature_replay.values(history, RETAIL, rows, events, None))


def test_the_model_sees_nothing_that_tells_the_label(lines: pl.DataFrame) -> None:
    """The mark of a cancellation is no feature, and a line that carries it has no label; nor has a negative quantity."""
    assert isinstance(RETAIL.label, MatchLabel)
    assert RETAIL.label.field not in model_features.features_for(RETAIL).columns
    rows = labelled(lines)
    assert rows[LABEL].sum() > 100
    assert not rows[RETAIL.label.field].str.contains(RETAIL.label.pattern).any()
    assert rows["Quantity"].min() > 0


def test_a_line_knows_nothing_of_its_own_cancellation(lines: pl.DataFrame) -> None:
    """What a cancelled line's features are does not change when everything that came after it is taken away."""
    features = model_features.features_for(RETAIL)
    names = [h for h in features.history]
    rows = labelled(lines)
    known = with_past(rows, lines).filter(pl.col(LABEL))
    for row in known.sample(40, seed=1).iter_rows(named=True):
        one = rows.filter(pl.col("raw_offset") == row["raw_offset"])
        until_then = with_past(one, lines.filter(pl.col(APPEND_TIME) <= row[APPEND_TIME]))
        assert until_then.select(names).row(0) == tuple(row[n] for n in names)


def test_a_model_is_fitted_by_the_contract_alone(lines: pl.DataFrame) -> None:
    rows = with_past(labelled(lines), lines)
    features = model_features.with_categories(model_features.features_for(RETAIL), rows)
    times = rows[CLOCK].dt.epoch("ms").to_numpy()
    fitted = fitting.fit(features.matrix(rows), rows[LABEL].to_numpy(), fitting.split(times), seed=1)
    assert 0 < fitted.base_rate < 0.1
    assert np.isfinite(fitted.scores).all() and set(features.history) <= set(features.names)


def test_no_label_that_was_taught_was_made_in_the_time_of_the_test_rows(lines: pl.DataFrame) -> None:
    assert isinstance(RETAIL.label, MatchLabel)
    horizon = timedelta(days=3)  # the slice has 23 days, the contract's horizon 30
    short = replace(RETAIL, label=replace(RETAIL.label, horizon=horizon))
    rows = with_past(labelled(lines), lines).sort(CLOCK)
    parts = train.build(short, rows, since=None, seed=1).parts
    times = rows[CLOCK]
    assert times[int(parts.calibrate[-1])] + horizon < times[int(parts.test[0])]
    assert times[int(parts.calibrate[-1]) + 1] + horizon >= times[int(parts.test[0])]  # and no row more is left out
    assert len(parts.test) == int(rows.height * fitting.TEST_SHARE) and parts.train[-1] + 1 == parts.calibrate[0]


def test_training_ends_one_horizon_before_the_month_that_is_asked_about() -> None:
    found = bench.periods(to_ms("2011-03-31T12:00:00Z"), timedelta(days=30))
    assert [to_text(t)[:10] for t in (found.taught_to, found.asked_from, found.asked_to)] == [
        "2011-01-02",
        "2011-02-01",
        "2011-03-01",
    ]


def test_customers_are_drawn_whole_so_that_lines_alike_count_once() -> None:
    """Each customer's 50 lines are copies: the interval is as wide as that of one line a customer, not seven times narrower."""
    rng = np.random.default_rng(5)
    p = rng.uniform(0.05, 0.95, 300)
    label, customer = (rng.random(300) < p).astype(np.int8), np.arange(300)
    one = bench.intervals(label, p, 0.5, customer)
    many = bench.intervals(*(np.repeat(a, 50) for a in (label, p)), 0.5, np.repeat(customer, 50))
    for name in ("log_loss", "gain", "auc"):
        value, low, high = many[name]
        assert low < value < high and value == pytest.approx(one[name][0])
        assert high - low == pytest.approx(one[name][2] - one[name][1], rel=1e-6)
