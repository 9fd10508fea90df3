"""Each scenario does what its name says, measured on true probabilities, not on samples of labels."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pipeline import contract_file, decode
from pipeline.errors import UsageError
from pipeline.times import to_ms
from producers import paper_table, sales_defects
from producers.arrivals import DAY_MS, HOUR_MS
from producers.batches import first
from producers.sales import BLOCK_ORDERS
from producers.sales_stream import stream
from producers.scenarios import duration, scenario, schedule
from tests.producers.sales_samples import (
    SALES,
    START_MS,
    expected_log_loss,
    law_of,
    probability,
    produced,
    sample,
    timeline,
    values,
)

FAULTS = ("unit-change", "dropped-segment", "null-burst", "new-category", "clock-skew", "duplicate-producer")
BASE = sample("baseline")
FROZEN = law_of("baseline")
LOSS = expected_log_loss(BASE.return_probability, BASE.return_probability)


def shift(name: str, rows: object) -> float:
    return float(ks_2samp(getattr(BASE, name), getattr(rows, name)).statistic)


def test_price_shift_costs_a_frozen_champion_ten_percent_and_retraining_wins_it_back() -> None:
    rows = sample("price-shift")
    frozen = expected_log_loss(rows.return_probability, probability(FROZEN, rows))
    retrained = expected_log_loss(rows.return_probability, rows.return_probability)
    assert frozen > 1.10 * LOSS
    assert frozen - retrained > 0.10 * LOSS  # the relation changed; it is not only that the inputs became harder
    assert shift("price_cents", rows) > 0.10


def test_harmless_shift_moves_inputs_visibly_and_keeps_law_and_loss() -> None:
    rows = sample("harmless-shift")
    assert np.array_equal(rows.return_probability, probability(FROZEN, rows))
    assert abs(expected_log_loss(rows.return_probability, rows.return_probability) / LOSS - 1) < 0.03
    moved = {name: shift(name, rows) for name in ("region", "channel", "quantity", "discount_cents")}
    assert moved["region"] > 0.10 and min(moved.values()) > 0.02
    assert rows.discount_cents.max() <= BASE.discount_cents.max() and rows.quantity.max() <= BASE.quantity.max()
    assert np.array_equal(rows.category, BASE.category)


def test_harmless_shift_on_top_of_price_shift_is_harmless_to_a_model_of_the_new_law() -> None:
    before, after = sample("price-shift"), sample("price-shift,harmless-shift")
    assert law_of("price-shift,harmless-shift") == law_of("price-shift")
    losses = [expected_log_loss(rows.return_probability, rows.return_probability) for rows in (before, after)]
    assert abs(losses[1] / losses[0] - 1) < 0.03


def test_a_model_fitted_before_the_harmless_shift_stays_calibrated_after_it() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    def inputs(rows: object) -> np.ndarray:
        return np.column_stack(
            [getattr(rows, n) for n in ("category", "channel", "region", "quantity", "price_cents", "discount_cents")]
        )

    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(inputs(BASE), BASE.returned)
    after = sample("harmless-shift", seed=8)
    forecast = model.predict_proba(inputs(after))[:, 1]
    bins = np.digitize(forecast, np.quantile(forecast, np.linspace(0.1, 0.9, 9)))
    gaps = [abs(forecast[bins == i].mean() - after.return_probability[bins == i].mean()) for i in range(10)]
    assert max(gaps) < 0.03
    # It does not know customers and products, so its loss is compared with its own, not with the ideal one.
    before = expected_log_loss(BASE.return_probability, model.predict_proba(inputs(BASE))[:, 1])
    assert expected_log_loss(after.return_probability, forecast) < 1.03 * before


def test_concept_shift_leaves_every_input_as_it_was() -> None:
    rows = sample("concept-shift")
    for name in ("category", "region", "channel", "quantity", "price_cents", "discount_cents", "customer", "product"):
        assert np.array_equal(getattr(BASE, name), getattr(rows, name))
    assert expected_log_loss(rows.return_probability, probability(FROZEN, rows)) > 1.10 * LOSS


def test_seasonal_sells_other_things_at_other_hours_and_baseline_does_not() -> None:
    def share_by_half_day(names: str) -> float:
        rows = sample(names, step_ms=9_000)
        evening = (rows.event_ms % DAY_MS) // HOUR_MS >= 18
        tables = [np.bincount(rows.category[half], minlength=8) / half.sum() for half in (evening, ~evening)]
        return float(np.abs(tables[0] - tables[1]).sum() / 2)

    assert share_by_half_day("seasonal") > 0.04
    assert share_by_half_day("baseline") < 0.015


def test_bad_records_are_two_percent_and_each_kind_is_caught_or_is_a_fault_of_the_dataset() -> None:
    sound = produced(count=2)[0].values
    decoder = decode.compile(SALES)
    for kind in sales_defects.KINDS:
        sent = sales_defects.apply(kind, sound[1], json.loads(sound[0])["order_id"])
        caught = decoder.decode_batch([sent], [0], [START_MS + DAY_MS]).counts.get("valid", 0) == 0
        assert caught == (sales_defects.sort_of(kind) != "dataset"), kind
    count = 40_000
    records = values(produced("bad-records", count))
    decoded = decoder.decode_batch(records, range(count), [START_MS + 30 * DAY_MS] * count)
    assert 0.017 < len(decoded.rejects) / count < 0.021
    kinds = {sales_defects.kind_of(n) for n in sample("bad-records", blocks=24).defect.tolist() if n}
    assert kinds == set(sales_defects.KINDS)


def test_bad_records_break_the_rules_over_the_dataset_and_defects_alone_do_not() -> None:
    def prices_and_ids(names: str) -> tuple[float, int]:
        count = 40_000
        records = values(produced(names, count))
        batch = decode.compile(SALES).decode_batch(records, range(count), [START_MS + 30 * DAY_MS] * count).batch
        ids = [i for i in batch.column("order_id").to_pylist() if i]
        return float(np.nanmean(batch.column("price").to_numpy(zero_copy_only=False))), len(ids) - len(set(ids))

    mean, twice = prices_and_ids("defects")
    assert 10 < mean < 1000 and twice <= 0.0005 * 40_000  # the over-long id is one text
    mean, twice = prices_and_ids("bad-records")
    assert mean > 300 and twice > 5


def records(names: str, count: int = 12_000) -> list[dict[str, object]]:
    return [json.loads(v) for v in values(produced(names, count)) if v]


def share(found: list[dict[str, object]], field: str, value: object) -> float:
    return sum(r[field] == value for r in found) / len(found)


def test_each_fault_of_a_whole_part_of_the_stream_does_what_its_name_says() -> None:
    base = {r["order_id"]: r for r in records("baseline", 20_000)}
    sent = {name: records(name) for name in FAULTS}
    for name, found in sent.items():  # what is not hit is as ever, byte for byte
        same = sum(base.get(r["order_id"]) == r for r in found) / len(found)
        assert 0.7 < same <= 1.0, name
    ratios = {(r["region"], round(r["price"] / base[r["order_id"]]["price"])) for r in sent["unit-change"]}
    assert ratios == {("central", 100), *((region, 1) for region in ("north", "south", "east", "west"))}
    assert share(sent["dropped-segment"], "region", "south") == 0.0
    assert abs(share(sent["null-burst"], "price", None) - 0.2) < 0.02
    assert abs(share(sent["new-category"], "channel", "social") - 1 / 12) < 0.01
    behind = [(r, base[r["order_id"]]) for r in sent["clock-skew"] if r != base[r["order_id"]]]
    assert {b["region"] for _, b in behind} == {"east"}
    assert {to_ms(str(b["event_time"])) - to_ms(str(r["event_time"])) for r, b in behind} == {45 * 60_000}
    twice = Counter(Counter(r["order_id"] for r in sent["duplicate-producer"][:-1]).values())
    assert twice[2] > 1_000 and set(twice) == {1, 2}


def test_an_order_that_is_sent_twice_has_one_outcome_and_one_that_is_silent_has_none() -> None:
    assert len({*(k for b in produced("duplicate-producer") for k in b.labels.key)}) == sum(
        len(b.labels) for b in produced("duplicate-producer")
    )
    for batch in produced("dropped-segment"):
        assert len(batch.labels) == len(batch)


def test_faults_add_up_to_other_scenarios() -> None:
    found = records("price-shift,null-burst,dropped-segment")
    assert share(found, "region", "south") == 0.0 and share(found, "price", None) > 0.15
    assert np.median([r["price"] for r in found if r["price"]]) > 38  # 31.98 in baseline


def test_price_move_and_mix_change_move_what_they_name_and_nothing_else() -> None:
    dearer, other = sample("price-move"), sample("mix-change")
    assert abs(np.median(dearer.price_cents / BASE.price_cents) - 1.15) < 0.01
    assert np.array_equal(dearer.category, BASE.category) and law_of("price-move") == FROZEN
    assert shift("channel", other) > 0.05 and shift("category", other) > 0.02 and shift("quantity", other) < 0.05


def test_damaged_records_have_no_label() -> None:
    rows = sample("bad-records", blocks=1)
    batch = produced("bad-records", count=8_192, seed=7)[0]
    assert batch.labels.row.tolist() == np.flatnonzero(rows.defect == 0).tolist()


def test_paper_table_has_exactly_the_published_faults_and_no_others() -> None:
    contract = contract_file.load("paper")
    batch = paper_table.batch(contract, 1, START_MS)
    records = [json.loads(value) for value in batch.values]
    decoded = decode.compile(contract).decode_batch(
        batch.values, range(len(records)), [START_MS + 31 * DAY_MS] * len(records)
    )
    assert len(records) == 10_000
    assert decoded.counts["valid"] == 9_988
    assert [records[row]["quantity"] < 0 for row in decoded.rejects] == [True] * 12
    times = Counter(record["order_id"] for record in records)
    assert Counter(times.values()) == {1: 9_964, 2: 18}
    assert max(Counter((r["customer_id"], r["order_date"]) for r in records).values()) == 1
    assert 10 <= np.mean([r["price"] for r in records]) <= 1000
    assert batch.event_ms.tolist() == sorted(batch.event_ms.tolist())


@pytest.mark.parametrize("seed", [2, 3])
def test_paper_table_copies_differ_from_their_original_in_customer_or_date_alone(seed: int) -> None:
    records = [json.loads(v) for v in paper_table.batch(contract_file.load("paper"), seed, START_MS).values]
    seen: dict[str, dict[str, object]] = {}
    differences = Counter()
    for record in records:
        original = seen.setdefault(record["order_id"], record)
        if original is not record:
            differences[tuple(k for k in record if record[k] != original[k] and k != "event_time")] += 1
    assert differences == {("customer_id",): 9, ("order_date",): 9}


def test_a_schedule_names_sets_and_rising_times() -> None:
    phases = schedule("baseline@0,price-shift@36h,price-shift+harmless-shift@2.5d")
    assert [p.name for p in phases] == ["baseline", "price-shift", "price-shift+harmless-shift"]
    assert [p.after for p in phases] == [timedelta(0), timedelta(hours=36), timedelta(days=2.5)]
    assert scenario("price-shift,harmless-shift")[0].world == phases[2].world


@pytest.mark.parametrize(
    "text, said",
    [
        ("price-shift", "SCENARIO@TIME"),
        ("baseline@0,price-shift@0", "rise"),
        ("price-shift@1h", "begin at 0"),
        ("baseline@0,prize-shift@1h", "prize-shift is not known"),
        ("baseline@0,price-shift@soon", "not a duration"),
        ("paper-table-2@0", "run of its own"),
    ],
)
def test_a_wrong_schedule_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        schedule(text)


def test_durations() -> None:
    assert [duration(t) for t in ("0", "90s", "1.5h", "2w")] == [
        timedelta(0),
        timedelta(seconds=90),
        timedelta(minutes=90),
        timedelta(weeks=2),
    ]


def test_a_scenario_on_a_cue_begins_with_the_next_block_and_not_before() -> None:
    phases = schedule("baseline@0,price-shift@next")
    asked = iter([None, None, phases[1].world])
    started: list[int] = []

    def cue(first_ms: int):
        world = next(asked, None)
        if world:
            started.append(first_ms)
        return world

    cued = first(stream(SALES, phases, 1, timeline(), cue=cue), 4 * BLOCK_ORDERS)
    plain = first(stream(SALES, schedule("baseline@0"), 1, timeline()), 4 * BLOCK_ORDERS)
    same = [a.values == b.values for a, b in zip(cued, plain, strict=True)]
    assert same == [True, True, False, False] and len(started) == 1


def test_a_schedule_cannot_begin_on_a_cue() -> None:
    with pytest.raises(UsageError, match="the first scenario begins at 0"):
        schedule("price-shift@next")
