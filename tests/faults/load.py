"""PURE. The live load of a campaign: how fast, how event time runs, what is wrong with some of the records."""

from __future__ import annotations

from dataclasses import dataclass

SCENARIO = "bad-records,clock-skew"  # dead letters of every kind, and late rows that revise their windows


@dataclass(frozen=True, slots=True)
class Load:
    rate: float = 500.0  # events a wall second, on average over a week of event time
    speed: float = 600.0  # event seconds a wall second: an hour's window every six seconds
    seed: int = 1

    @property
    def arguments(self) -> list[str]:
        """Of `driftline produce`, whenever it is started."""
        return ["--rate", f"{self.rate:g}", "--speed", f"{self.speed:g}", "--scenario", SCENARIO, "--no-outcomes"]
