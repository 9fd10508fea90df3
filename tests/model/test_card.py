"""The model card: intervals that cover what they promise, and a page that no category's name can break."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from batch import card, card_figures
from batch.card import Card
from batch.card_figures import Interval
from pipeline import contract_file

CONTRACT = contract_file.load("sales")
EVIL = '<script>alert("x")</script>'


def drawn(rng: np.random.Generator, rows: int, unfair: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, calibrated scores, groups; the first group happens more often than is promised, by `unfair`."""
    p = rng.uniform(0.05, 0.4, rows)
    group = rng.choice(["a", "b", "c", EVIL], rows)
    return (rng.random(rows) < p + unfair * (group == "a")).astype(np.int8), p, group


def test_equal_groups_are_rarely_shown_to_differ_and_unequal_ones_are() -> None:
    rng, shown = np.random.default_rng(4), 0
    for _ in range(200):
        y, p, group = drawn(rng, 4_000)
        [widest] = card_figures.measure(y, p, {"side": group}, 0.2).widest
        shown += widest.difference.low > 0
    assert shown <= 0.05 * 200 + 10  # three standard errors
    y, p, group = drawn(rng, 8_000, unfair=0.1)
    [widest] = card_figures.measure(y, p, {"side": group}, 0.2).widest
    assert widest.low == "a" and widest.difference.low > 0


def test_the_interval_of_the_loss_covers_it() -> None:
    rng, covered = np.random.default_rng(5), 0
    truth = float(np.mean([-(q * np.log(q) + (1 - q) * np.log(1 - q)) for q in np.linspace(0.05, 0.4, 100_001)]))
    for _ in range(400):
        y, p, group = drawn(rng, 1_000)
        loss = card_figures.measure(y, p, {"side": group}, 0.2).loss
        covered += loss.low <= truth <= loss.high
    assert 0.92 <= covered / 400 <= 0.98


def test_small_slices_are_counted_and_not_told() -> None:
    y, p, group = drawn(np.random.default_rng(6), 4_000)
    group[:30] = "rare"
    found = card_figures.measure(y, p, {"side": group}, 0.2)
    assert "rare" not in {s.value for s in found.slices} and found.untold == 30
    assert sum(s.rows for s in found.slices) + found.untold == found.rows == 4_000
    alone = card_figures.measure(y, p, {"side": np.full(4_000, "one")}, 0.2)
    assert alone.widest == () and len(alone.slices) == 1


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_tells_what_was_measured_and_no_name_breaks_it() -> None:
    y, p, group = drawn(np.random.default_rng(7), 4_000)
    figures = card_figures.measure(y, p, {"side": group}, 0.2)
    data = {
        "table_version": 7, "outcomes_version": 5, "ranges": {"0": [10, 90]}, "start": "s", "end": "e", "rows": 4000, "positives": 800,
        "unlabelled": 1000, "digest": "d1", "dead_letters": {EVIL: 3}, "status": "degraded", "contract": "c", "features": "f",
    }  # fmt: skip
    made = Card(
        CONTRACT, "m", "3", "at", data, {"seed": 1, "since": None, "code": {"driftline": "0"}}, {"leaves": 5}, {"log_loss": 0.4},
        {"log_loss": 0.5}, figures, ("price",), {"promote": False, "reasons": [EVIL], "champion": "2", "policy": "p"},
        {"sha256": "b1"}, "t", (1, 2, 3), 500,
    )  # fmt: skip
    reader = Reader()
    reader.feed(card.page(made, {}))
    assert "script" not in reader.tags and reader.text.count(EVIL) >= 4  # a reason, a dead letter, a slice, the chart
    for part in ("may not serve", "champion version 2", "[0] 10 to 89", "degraded", "d1", "b1", "20.0%", "80.0%"):
        assert part in reader.text, part
    gap: Interval = figures.slices[0].gap
    assert f"{gap.value:.4f} ({gap.low:.4f} to {gap.high:.4f})" in reader.text
