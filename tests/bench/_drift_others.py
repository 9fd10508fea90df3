"""Question: what do Evidently, NannyML and Alibi Detect say of the very same rows, each in an environment of its own (`make peers`)?

The rows are drawn here and handed over as .npy files in a folder that is removed afterwards; a tool that is not installed is a
line in its table, not a failure. Ours reads the same rows under one page in 30 days of hourly windows (720), each column alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from pipeline.contract import MonitoredFeature, Tolerance
from stream_processors.comparing import statistics
from stream_processors.detectors.detector import Detectors, State
from stream_processors.reference import cells
from stream_processors.reference.cells import WHOLE, FeatureReference
from tests.bench._drift_answers import PROCESSES, Answer, Size, Table, shared_out
from tests.bench._drift_peers import Length
from tests.bench._drift_streams import cells_of, packed_panes, pages, plan_of
from tests.bench.report import Bar, bar, progress

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS, ASKING = ROOT / ".driftline" / "peers", Path(__file__).parent / "peers"
UNTRACKED = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}  # Evidently's and NannyML's telemetry
PATIENCE = 600  # seconds that a tool may take
ABSENT = "not installed: make peers"

BUDGET = 720  # hourly windows in 30 days, in which one page is allowed
REFERENCE = 10_000  # rows; the fewest on which ours pages
SIZES = {"short": (100,), "default": (50, 100, 200, 500, 1_000, 10_000), "full": (50, 100, 200, 500, 1_000, 10_000)}
COLUMNS, WINDOWS, SHIFTED = {"short": 2, "default": 10, "full": 40}, 10, 4  # a column: its reference, its windows
SHIFT = 0.5  # sd
LARGE, TINY, TOLERANCE, LARGE_DRAWS = 1_000_000, 0.01, 0.02, {"short": 1, "default": 2, "full": 5}

CHUNK, CHUNKS = 1_000, {"short": 20, "default": 100, "full": 200}  # NannyML's
DRAWN = {"short": 2, "default": 20, "full": 50}  # references
METHODS = {"jensen_shannon": "Jensen-Shannon (its default)", "kolmogorov_smirnov": "its K-S"}

ERT, ALIBIS_ROWS, ALIBIS_WINDOWS, BOOTSTRAPS = 1_000, 1_000, [20, 50, 100, 200], 10_000
STREAMS = {"short": 2, "default": 60, "full": 120}  # each with a reference of its own
LONGEST, BEFORE, MOST = 8_000, 200, 2_000  # events: of a quiet run, before a shift, after it
SHIFTS = (0.25, 0.5, 1.0)
PANE = 5  # rows of ours beside Alibi, which looks at every event
X = MonitoredFeature("x", "numeric")


@dataclass(slots=True)
class Found:
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


def ask(tool: str, question: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> dict[str, object] | None:
    """The tool's answer, from its own interpreter; None where it is not installed."""
    python = ENVIRONMENTS / tool / "bin" / "python"
    if not python.exists():
        progress(f"others: {tool}: {ABSENT}")
        return None
    with TemporaryDirectory(prefix="driftline-peers-") as folder:
        for name, values in arrays.items():
            np.save(Path(folder) / f"{name}.npy", values)
        done = subprocess.run(
            [str(python), str(ASKING / f"ask_{tool}.py")],
            input=json.dumps({"folder": folder, **question}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, **UNTRACKED},
        )
    if done.returncode:
        raise RuntimeError(f"{tool}: expected an answer, got exit {done.returncode}: {done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def watching(reference: np.ndarray, panes: float, tolerance: float = 0.0) -> tuple[FeatureReference, Detectors]:
    """Ours, against one column's reference, under a budget of one page in so many panes."""
    feature = MonitoredFeature("x", "numeric", Tolerance("distance", tolerance))
    known = cells.build(feature, WHOLE, pa.array(reference), version=1, effective_from=0, kept=len(reference))
    return known, Detectors({known.key: known}, plan_of([feature], 1.0, panes))


def paged(
    known: FeatureReference, detectors: Detectors, state: State, windows: np.ndarray, first: int = 0
) -> list[int]:
    """Which of these windows (rows of the array, one pane each) paged."""
    packed = packed_panes(
        detectors, known, cells_of(known, np.ascontiguousarray(windows).reshape(-1)), windows.shape[1]
    )
    return [pane - first for pane, _ in pages(detectors, state, packed, first)]


# -- Evidently: windows of every size -----------------------------------------------------------------------------------


def of_evidently(size: Size, found: Found) -> None:
    rng = np.random.default_rng(121)
    columns, arrays, asked = COLUMNS[size], {}, []
    for n in SIZES[size]:
        moved = np.repeat([0.0, SHIFT], (WINDOWS, SHIFTED))[:, None, None]
        arrays[f"reference{n}"] = rng.standard_normal((REFERENCE, columns))
        arrays[f"windows{n}"] = rng.standard_normal((WINDOWS + SHIFTED, n, columns)) + moved
        asked.append({"reference": f"reference{n}", "windows": f"windows{n}", "method": None})
    said = ask("evidently", {"asked": asked}, arrays) if size != "short" else None
    rows, false_pages = [], 0
    for i, n in enumerate(SIZES[size]):
        ours = [_windows_of_ours(arrays[f"reference{n}"][:, c], arrays[f"windows{n}"][:, :, c]) for c in range(columns)]
        false_pages += sum(o[0] for o in ours)
        theirs = np.array(said["alarms"][i]) if said else None
        rows.append(
            (
                f"{n:,}",
                *((f"{theirs[:WINDOWS].mean():.0%}", f"{theirs[WINDOWS:].mean():.0%}") if said else (ABSENT, "")),
                f"{sum(o[0] for o in ours) / (columns * WINDOWS):.1%}",
                f"{np.mean([o[1] == 1 for o in ours]):.0%}",
                f"{np.mean([o[1] <= SHIFTED for o in ours]):.0%}",
            )
        )
    allowed = len(rows) * columns * WINDOWS / BUDGET
    found.bars.append(bar("others: our false pages in Evidently's quiet windows", false_pages, "<=", round(allowed, 2)))
    version = f"Evidently {said['version']}" if said else "Evidently"
    found.tables.append(
        Table(
            f"{version}, its default for numbers, and ours: {columns} references of {REFERENCE:,} rows, {WINDOWS} quiet windows each and then {SHIFTED} at +{SHIFT} sd",
            (
                "rows a window", f"{version}: quiet windows that alarm", f"windows at +{SHIFT} sd that alarm",
                "ours: quiet windows that page", f"the first at +{SHIFT} sd pages", f"one of the first {SHIFTED}",
            ),
            rows,
        )
    )  # fmt: skip
    found.figures["evidently"] = {"version": said["version"], "cpu_seconds": said["seconds"]} if said else ABSENT


def _windows_of_ours(reference: np.ndarray, windows: np.ndarray) -> tuple[int, int]:
    """(pages while nothing moved, windows until the first page after the shift)."""
    known, detectors = watching(reference, BUDGET)
    state = detectors.start()
    quiet = paged(known, detectors, state, windows[:WINDOWS])
    moved = paged(known, detectors, state, windows[WINDOWS:], WINDOWS)
    return len(quiet), moved[0] + 1 if moved else SHIFTED + 1


def of_large_windows(size: Size, found: Found) -> None:
    """A hundredth of a standard deviation at a million rows: proved, and nothing to wake anybody for."""
    rng = np.random.default_rng(122)
    draws, arrays = LARGE_DRAWS[size], {}
    rows = LARGE // 10 if size == "short" else LARGE
    for i in range(draws):
        arrays[f"reference{i}"] = rng.standard_normal((rows, 1))
        arrays[f"windows{i}"] = rng.standard_normal((1, rows, 1)) + TINY
    asked = [
        {"reference": f"reference{i}", "windows": f"windows{i}", "method": method}
        for method in (None, "ks")
        for i in range(draws)
    ]
    said = ask("evidently", {"asked": asked}, arrays) if size != "short" else None
    told, ours = [], 0
    for i in range(draws):
        known, detectors = watching(arrays[f"reference{i}"][:, 0], BUDGET, TOLERANCE)
        window = arrays[f"windows{i}"][:, :, 0]
        ours += len(paged(known, detectors, detectors.start(), window))
        told.append(statistics.compare(known, cells.count(known, pa.array(window[0])), 0.05))
    theirs = [f"{sum(a[0][0] for a in part)} of {draws}" if said else ABSENT for part in _halves(said, draws)]
    found.bars.append(bar(f"others: our pages of {TINY} sd at {rows:,} rows, tolerance {TOLERANCE}", ours, "==", 0))
    chart = ", ".join(f"D {t.statistic:.4f}, p {t.p_value:.0e}" for t in told)
    found.tables.append(
        Table(
            f"A shift of {TINY} sd in a window of {rows:,} rows, reference of as many",
            ("who", "alarms"),
            [
                ("Evidently, its default", theirs[0]),
                ("Evidently, method `ks`", theirs[1]),
                (f"ours, tolerance {TOLERANCE} in D (charted: {chart})", f"{ours} of {draws}"),
            ],
        )
    )


def _halves(said: dict[str, object] | None, draws: int) -> tuple[list, list]:
    alarms = said["alarms"] if said else []
    return alarms[:draws], alarms[draws:]


# -- NannyML: chunks against references drawn anew ----------------------------------------------------------------------


def of_nannyml(size: Size, found: Found) -> None:
    rng = np.random.default_rng(123)
    columns, chunks = DRAWN[size], CHUNKS[size]
    reference, stream = (rng.standard_normal((n, columns)) for n in (REFERENCE, CHUNK * chunks))
    arrays = {"reference": reference, "stream": stream}
    said = ask("nannyml", {"rows": CHUNK, "methods": list(METHODS)}, arrays) if size != "short" else None
    ours = []
    for c in range(columns):
        known, detectors = watching(reference[:, c], BUDGET)
        ours.append(len(paged(known, detectors, detectors.start(), stream[:, c].reshape(chunks, CHUNK))) / chunks)
    rows = [
        (
            f"NannyML {said['version']}, {name}" if said else f"NannyML, {name}",
            *(_spread(np.mean(said["alarms"][method], axis=1)) if said else (ABSENT, "", "")),
        )
        for method, name in METHODS.items()
    ]
    found.bars.append(
        bar("others: our false pages in NannyML's chunks", round(sum(ours) * chunks), "<=", round(columns * chunks / BUDGET, 2))
    )  # fmt: skip
    found.tables.append(
        Table(
            f"{columns} references of {REFERENCE:,} rows, each watching {chunks} quiet chunks of {CHUNK:,}: share of chunks that alarm",
            ("who", "all references", "the best reference", "the worst"),
            [*rows, ("ours", *_spread(np.array(ours)))],
        )
    )
    found.figures["nannyml"] = {"version": said["version"], "cpu_seconds": said["seconds"]} if said else ABSENT


def _spread(shares: np.ndarray) -> tuple[str, str, str]:
    return f"{shares.mean():.1%}", f"{shares.min():.1%}", f"{shares.max():.1%}"


# -- Alibi Detect: delays at one measured run length --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One reference of ours: its first rows are Alibi's."""

    seed: int
    stated: float  # events a page


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(reference, a quiet stream, streams that shift after BEFORE events)."""
    rng = np.random.default_rng([124, seed])
    moved = np.concatenate((np.zeros(BEFORE), np.ones(MOST)))
    shifted = rng.standard_normal((len(SHIFTS), BEFORE + MOST)) + np.outer(SHIFTS, moved)
    return rng.standard_normal(REFERENCE), rng.standard_normal(LONGEST), shifted


def run_length(run: Run) -> float:
    """Events a page in a long quiet stream against one reference; a page starts the detector anew."""
    known, detectors = watching(drawn(run.seed)[0], max(2, run.stated / PANE))
    rng, events = np.random.default_rng([125, run.seed]), 50_000
    found = paged(known, detectors, detectors.start(), rng.standard_normal((events // PANE, PANE)))
    return events / max(1, len(found))


def read_at_page(run: Run) -> list[int | None]:
    """Events read when each stream that shifts paged; None: it never did."""
    reference, _, shifted = drawn(run.seed)
    known, detectors = watching(reference, max(2, run.stated / PANE))
    panes = (paged(known, detectors, detectors.start(), values.reshape(-1, PANE)) for values in shifted)
    return [(fired[0] + 1) * PANE if fired else None for fired in panes]


def matched(length: float, streams: int) -> tuple[float, float]:
    """(stated, measured): what ours must be told so that it measures this run length, by bisection of the logarithm."""
    low, high, best = 10.0, 20_000.0, (0.0, float("inf"))
    for _ in range(10):
        stated = float(np.sqrt(low * high))
        measured = float(np.mean(list(shared_out(run_length, [Run(seed, stated) for seed in range(streams)]))))
        if abs(np.log(measured / length)) < abs(np.log(best[1] / length)):
            best = stated, measured
        low, high = (stated, high) if measured < length else (low, stated)
    return best


def of_alibi(size: Size, found: Found) -> None:
    streams = STREAMS[size]
    all_drawn = [drawn(seed) for seed in range(streams)]
    arrays = {
        "reference": np.stack([d[0][:ALIBIS_ROWS] for d in all_drawn]),
        "quiet": np.stack([d[1] for d in all_drawn]),
        "shifted": np.stack([d[2] for d in all_drawn]),
    }
    question = {"ert": ERT, "windows": ALIBIS_WINDOWS, "bootstraps": BOOTSTRAPS, "seed": 126, "processes": PROCESSES}  # fmt: skip
    said = ask("alibi", question, arrays) if size != "short" else None
    quiet = said["quiet"] if said else []
    length = Length(sum(q or LONGEST for q in quiet), sum(q is not None for q in quiet)) if said else Length(ERT, 1)
    alibis, spread = length.value, length.interval
    stated, measured = matched(alibis, streams)
    ours = mean_delays([read_at_page(Run(seed, stated)) for seed in range(streams)])
    theirs = mean_delays(said["shifted"]) if said else None
    progress(f"others: ours {ours} at {measured:,.0f} (stated {stated:,.0f}), Alibi {theirs} at {alibis:,.0f}")
    name = f"Alibi Detect {said['version']}" if said else "Alibi Detect"
    rows: list[tuple[object, ...]] = [
        (
            f"{name}, online Cramer-von Mises, reference of {ALIBIS_ROWS:,}",
            *((f"{alibis:,.0f} ({spread[0]:,.0f} to {spread[1]:,.0f})", *(f"{d:,.0f}" for d in theirs)) if theirs else (ABSENT, *[""] * len(SHIFTS))),
        ),
        (f"ours, panes of {PANE} rows, reference of {REFERENCE:,}", f"{measured:,.0f} (stated {stated:,.0f})", *(f"{d:,.0f}" for d in ours)),
    ]  # fmt: skip
    found.tables.append(
        Table(
            f"Mean delay in events over {streams} streams, each with a reference of its own, at one measured run length",
            ("who", "measured run length (95 %)", *(f"+{s} sd" for s in SHIFTS)),
            rows,
        )
    )
    found.bars.append(
        bar("others: our run length over the one to be matched", round(measured / alibis, 3), ">=", 0.95, size != "short")
    )  # fmt: skip
    if said and theirs:
        ratios = {f"+{s} sd": round(a / b, 3) for s, a, b in zip(SHIFTS, ours, theirs, strict=True)}
        found.bars += [bar(f"others: our delay over Alibi's, {k}", r, "<=", 1.15, False) for k, r in ratios.items()]
        found.figures["alibi"] = {
            "version": said["version"], "run_length": alibis, "interval": spread, "delays": theirs, "seconds_to_configure": round(said["configured"], 1),
            "updates_a_second": round(said["updates"] / said["updating"]), "ours": {"stated": stated, "run_length": measured, "delays": ours},
        }  # fmt: skip
    else:
        found.figures["alibi"] = ABSENT


def mean_delays(runs: list[list[int | None]]) -> list[float]:
    """By shift, from the events read at the alarm of each stream; those that alarmed before it are left out."""
    since = [
        [(BEFORE + MOST + 1 if read is None else read) - BEFORE for read in column]
        for column in zip(*runs, strict=True)
    ]
    return [float(np.mean([d for d in column if d > 0])) for column in since]


def run(size: Size) -> Answer:
    found = Found()
    for part in (of_evidently, of_large_windows, of_nannyml, of_alibi):
        part(size, found)
        progress(f"others: {part.__name__.removeprefix('of_')} answered")
    alibi = found.figures["alibi"]
    notes = [
        "A tool that decides each window for itself has no memory, so its share of alarms is also how often it pages: 4 % of hourly windows are 29 pages a month for each column.",
        f"Ours never pages on a reference below {REFERENCE:,} rows, so beside Alibi it has ten times the rows; Alibi's set-up grows with the square of them.",
    ]
    if isinstance(alibi, dict):
        notes.append(
            f"Alibi took {alibi['seconds_to_configure']} s to find its thresholds by {BOOTSTRAPS:,} simulated streams, and {alibi['updates_a_second']:,} updates a second of one core's time."
        )
    return Answer(
        "Tools that cannot share our environment",
        "Evidently, NannyML and Alibi Detect each run in an environment of their own (`make peers` installs them from locked versions) and are handed the same rows as ours: N(0, 1), "
        f"drawn and seeded here. Ours: one page in {BUDGET} windows, one pane a window, except beside Alibi, where it is told the run length that makes it measure Alibi's. "
        f"Delays begin after {BEFORE} quiet events; streams that alarmed before are left out.",
        found.bars,
        found.figures,
        found.tables,
        [],
        notes,
    )
