"""EDGE. The campaign as a picture: throughput and the age of the oldest unread record over time, with a mark for every kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.observe import STAGES, Sample, ages

BIN_S = 1.0
COLOURS = {
    "validator": "#4477aa",
    "compactor": "#228833",
    "drift": "#aa3377",
    "producer": "#ccbb44",
    "broker": "#ee6677",
}
Series = Mapping[str, Mapping[str, list[float]]]


def series(samples: list[Sample]) -> dict[str, dict[str, list[float]]]:
    """By second: records produced and validated in it, and each stage's greatest age in it."""
    began, found = samples[0].at, {stage: ages(samples, stage) for stage in STAGES}
    bins = int((samples[-1].at - began) / BIN_S) + 1
    at = [min(bins - 1, int((s.at - began) / BIN_S)) for s in samples]
    last = dict(zip(at, samples, strict=True))  # the last sample of a second
    rate: dict[str, list[float]] = {"produced": [], "validated": []}
    before = samples[0]
    for second in range(bins):
        now = last.get(second, before)
        rate["produced"].append((now.produced - before.produced) / BIN_S)
        rate["validated"].append((now.validated - before.validated) / BIN_S)
        before = now
    age = {stage: [0.0] * bins for stage in STAGES}
    for stage, values in found.items():
        for second, value in zip(at, values, strict=True):
            age[stage][second] = round(max(age[stage][second], value), 2)
        for second in range(1, bins):
            if second not in last:  # the broker was away: nobody read anything
                age[stage][second] = round(age[stage][second - 1] + BIN_S, 2)
    return {"rate": rate, "age": age}


def draw(
    found: Series, kills: Sequence[Mapping[str, object]], rebalances: Sequence[tuple[float, int]], file: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seconds = range(len(found["rate"]["produced"]))
    figure, (rate, age, marks) = pyplot.subplots(3, 1, figsize=(12, 8), sharex=True, height_ratios=(3, 3, 1.3))
    rate.plot(seconds, found["rate"]["produced"], color="#bbbbbb", lw=0.8, label="produced")
    rate.plot(seconds, found["rate"]["validated"], color=COLOURS["validator"], lw=0.8, label="validated")
    rate.set_ylabel("records/s")
    for stage in STAGES:
        age.plot(seconds, [max(v, 0.1) for v in found["age"][stage]], color=COLOURS[stage], lw=0.9, label=stage)
    age.set(yscale="log", ylabel="age of the oldest\nunread record, s")
    for row, (kind, colour) in enumerate(COLOURS.items()):
        at = [float(str(k["at"])) for k in kills if k["kind"] == kind]
        marks.plot(at, [row] * len(at), "|", color=colour, ms=9, mew=0.8)
    marks.set(yticks=range(len(COLOURS)), yticklabels=COLOURS, ylim=(len(COLOURS) - 0.5, -0.5), xlabel="seconds")
    for at, members in rebalances:
        for axis in (rate, age, marks):
            axis.axvline(at, color="#999999", lw=0.6, ls=":")
        rate.annotate(f"{members}", (at, 1.0), xycoords=("data", "axes fraction"), fontsize=8, va="bottom", ha="center")
    for axis in (rate, age):
        axis.legend(loc="upper right", fontsize=8)
    rate.set_title(f"{len(kills)} kills; dotted: number of validators changes", fontsize=10, pad=14)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
