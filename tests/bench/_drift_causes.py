"""Question: did data break, or did the world change? Planted causes through real code, and the cause that is ranked first (`_causes`)."""

from __future__ import annotations

from tests.bench import _causes
from tests.bench._drift_answers import Answer, Size, shared_out
from tests.bench._drift_incidents import asked, table
from tests.bench.report import progress

COUNT = {"short": 8, "default": 300, "full": 600}
SEED = 111


def run(size: Size) -> Answer:
    bars, figures = _causes.measure(SEED, COUNT[size], progress, shared_out)
    bars = asked("causes", bars, 0.85 if size == "short" else 1.0)
    about = " ".join((_causes.__doc__ or "").split("\n\n")[-1].split())
    tables = [table("By planted cause", "cause", figures["classes"])]
    return Answer(
        "Data broke, or the world changed?", f"{COUNT[size]:,} planted causes. {about}", bars, figures, tables
    )
