"""What `contract check` promises is what the detectors of a reference at the floor do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import contract_file
from pipeline.contract import Tolerance
from stream_processors.detectors import budget
from stream_processors.detectors.promise import plan_lines, promises
from stream_processors.library.parts import references_of
from stream_processors.reference import cells
from tests.drift_core.samples import NUMBER, detectors_of, floats, numeric

SALES = contract_file.load("sales")


def watching(tolerance: Tolerance, rule: str):
    feature = replace(NUMBER, tolerance=tolerance)
    return replace(SALES, drift=replace(SALES.drift, features=(feature,), segments=(), scores=(), rejects=False, rule=rule))  # fmt: skip


def test_every_detector_that_a_full_reference_has_is_promised_with_its_threshold():
    #  price and region at *, price in each of the five regions: 7 detectors
    drift = replace(SALES.drift, features=tuple(f for f in SALES.drift.features if f.name in ("price", "region")), scores=(), rejects=False)  # fmt: skip
    contract = replace(SALES, drift=drift)
    made = promises(contract)
    assert [(p.feature, p.family, p.detectors) for p in made] == [("price", "*", 1), ("price", "region", 5), ("region", "*", 1)]  # fmt: skip
    rng = np.random.default_rng(91)
    segments = ("*", *(f"region={r}" for r in SALES.field("region").allowed))
    known = {(f, s): replace(numeric(rng.normal(size=10_000), s), feature=f) for f in ("price", "region") for s in segments if f == "price" or s == "*"}  # fmt: skip
    found = budget.thresholds(contract.drift, known)
    for p in made:
        own = found.of((p.feature, "*" if p.family == "*" else "region=north"))
        assert (p.bank, p.scan, p.material) == pytest.approx((own.bank, own.scan, own.material))


def test_of_values_that_are_not_listed_as_many_are_promised_as_a_reference_may_have():
    drift = replace(SALES.drift, features=(NUMBER,), segments=(("product_id",),), scores=(), rejects=False)
    made = {p.family: p for p in promises(replace(SALES, drift=drift))}
    store = np.repeat(
        [f"s{i}" for i in range(502)], 2_000
    )  # one more than a grouping may have of its own: the pool is of two
    plan = replace(SALES.drift, features=(NUMBER,), segments=(("store",),))
    known = references_of(plan, pa.table({NUMBER.name: np.arange(len(store), dtype=float), "store": store}))
    assert (made["product_id"].detectors, made["product_id"].listed) == (len(known) - 1, False) == (501, False)


@pytest.mark.parametrize(
    ("tolerance", "rule"),
    [
        (Tolerance(), "scan"),
        (Tolerance("distance", 0.3), "scan"),
        (Tolerance("wasserstein", 1.0), "scan"),
        (Tolerance(), "confseq"),
        (Tolerance("distance", 0.5), "confseq"),
    ],
)
def test_so_many_rows_page_and_one_fewer_cannot(tolerance, rule):
    contract = watching(tolerance, rule)
    (p,) = promises(contract)
    known = numeric(np.random.default_rng(92).normal(size=p.reference_rows))

    def fires(rows: int) -> bool:
        detectors = detectors_of(known, plan=contract.drift)
        state = detectors.start()
        detectors.step(state, {known.key: cells.count(known, floats(np.full(rows, 1e6)))}, 0)
        return bool(detectors.fired(state)[0])

    assert fires(p.rows + 1) and not fires(p.rows - 1)


def test_a_tolerance_that_no_distance_exceeds_is_told():
    (p,) = promises(watching(Tolerance("distance", 0.99), "bank"))
    assert "WARNING" in plan_lines(watching(Tolerance("distance", 0.99), "bank"))[1]
    assert "rows can page by the scan, perhaps fewer by the bank" in plan_lines(watching(Tolerance(), "bank"))[1]
    assert "rows can page; tolerance" in plan_lines(watching(Tolerance(), "scan"))[1]
    assert (
        p.rows is None and "no number of rows can page" in plan_lines(watching(Tolerance("distance", 0.99), "bank"))[1]
    )


def test_a_longer_budget_asks_for_more_evidence_and_ks_alpha_keeps_none():
    longer = replace(SALES, drift=replace(SALES.drift, pages_per=timedelta(days=300)))
    assert promises(longer)[0].bank == pytest.approx(promises(SALES)[0].bank + np.log(10))
    assert "whatever the budget" in plan_lines(replace(SALES, drift=replace(SALES.drift, rule="ks_alpha")))[0]


def test_the_thresholds_that_the_docs_quote_are_those_that_contract_check_says():
    text = (Path(__file__).parents[2] / "docs" / "drift.md").read_text()
    check = plan_lines(SALES)
    quoted = re.search(
        r"check` says ([\d.]+) and ([\d.]+): (\d+) detectors.*?(\d+) share it: ([\d.]+) and ([\d.]+)\.", text
    )
    assert quoted, "docs/drift.md: expected the thresholds of sales"
    bank, scan, detectors, of_rows, *before = quoted.groups()
    assert f": {detectors} detectors share 1 false page in 8,640 panes" in check[0]
    assert f"threshold bank {bank}, scan {scan}" in check[1]
    assert f"one false page in {int(detectors) * 8_640:,} panes" in text
    rows = plan_lines(replace(SALES, drift=replace(SALES.drift, scores=())))
    assert f": {of_rows} detectors" in rows[0] and "threshold bank {}, scan {}".format(*before) in rows[1]
    told = (Path(__file__).parents[2] / "docs" / "backtest.md").read_text()
    without = replace(SALES, drift=replace(SALES.drift, scores=(), rejects=False))
    assert f"{sum(p.detectors for p in promises(without))} detectors (those of the rows of `sales`" in told
