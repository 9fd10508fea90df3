"""PURE. Two looks at every process's metrics become one line each. It knows no metric by name, only by the endings that
the catalogue's base units give: `_total` counts, `_seconds_total` is time, `_lag_records` is lag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_MB = 4096 / 1e6


@dataclass(frozen=True, slots=True)
class Look:
    name: str
    state: str
    memory_mb: float
    at: float  # seconds
    series: Mapping[str, float]  # summed over labels


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    state: str
    memory_mb: float
    lag: float | None
    rate: float
    counter: str  # the counter that rose fastest; "" if none did


def series(exposition: str) -> dict[str, float]:
    """Metric name -> sum over its labels, from Prometheus' text format.

    >>> series('# HELP a_total x\\na_total{p="0"} 1\\na_total{p="1"} 2\\n')
    {'a_total': 3.0}
    """
    sums: dict[str, float] = {}
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
            sums[name] = sums.get(name, 0.0) + float(rest.rpartition("} ")[2].split()[0])
    return sums


def lines(before: Sequence[Look], now: Sequence[Look]) -> list[Line]:
    former = {look.name: look for look in before}
    return [_line(former.get(look.name, look), look) for look in now]


def _line(before: Look, now: Look) -> Line:
    seconds = now.at - before.at
    rates = {
        name: (value - before.series.get(name, 0.0)) / seconds
        for name, value in now.series.items()
        if seconds > 0 and name.startswith("driftline_") and name.endswith("_total") and "_seconds_" not in name
    }
    counter = max(rates, key=rates.__getitem__, default="")
    rate = rates.get(counter, 0.0)
    lags = [value for name, value in now.series.items() if name.endswith("_lag_records")]
    return Line(now.name, now.state, now.memory_mb, sum(lags) if lags else None, rate, counter if rate > 0 else "")


def memory_mb(pid: int | None) -> float:
    """Resident memory of one process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB if pid else 0.0
    except OSError:
        return 0.0
