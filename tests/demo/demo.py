"""The whole story on a real broker: a stream, a model, a shift that does no harm, one that does, and the proof at the end.

    make demo                    from a fresh clone
    KEEP=1 make demo             leave the stack running afterwards

Each step waits for what it needs, with a deadline; nothing here sleeps for an event.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table as RichTable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from batch import table  # noqa: E402
from batch.ledger import episodes_of  # noqa: E402
from monitoring import page  # noqa: E402
from pipeline import contract_file, topics  # noqa: E402
from pipeline.kafka import read_all  # noqa: E402
from pipeline.settings import Settings, from_environment  # noqa: E402
from pipeline.stack_verbs import UP_DEADLINE_S  # noqa: E402
from pipeline.times import to_ms  # noqa: E402
from tests.demo import pictures  # noqa: E402
from tests.demo.watch import Json, StepFailed, Watch, wait_for  # noqa: E402

SPEED = 1440  # one event day a minute
RATE = 1000  # events a second of wall time, so 2,500 an event hour
PHASES = "defects@0,harmless-shift+defects@next,price-shift+harmless-shift+defects@next"
FIRST_ROWS = 60_000  # labelled rows before the first model is trained: a day, as long as its features remember
MIN_AFTER = 30_000  # labelled rows since an onset before its decision: a quarter of them judges
QUIET_WINDOWS = 3
BUDGET_S = 420

console = Console(highlight=False, width=int(os.environ.get("COLUMNS", "140")))
Step = Callable[["Story"], str]


@dataclass
class Story:
    """What the steps hand on to one another, and the timeline."""

    settings: Settings
    environment: dict[str, str]
    phases: str = PHASES
    days: int = 10  # ago: where event time begins
    pace: float = 1.0  # of the stream; below 1 for a slow or busy machine, with longer deadlines
    began: float = field(default_factory=time.monotonic)
    timeline: list[tuple[float, float, str, str]] = field(default_factory=list)  # began, seconds, step, result
    producer: subprocess.Popen[bytes] | None = None
    watch: Watch | None = None
    sample: bytes = b""
    marks: list[tuple[str, str]] = field(default_factory=list)  # (event time, label)
    answers: list[Json] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contract = contract_file.load(self.settings.contract)
        self.model = f"{self.contract.id}-{self.contract.label.name}"  # type: ignore[union-attr]

    def driftline(self, *words: str, check: bool = True) -> str:
        """Run a verb; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *words], env=self.environment, capture_output=True, text=True
        )
        if check and done.returncode != 0:
            raise StepFailed(f"driftline {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def alive(self) -> None:
        if self.producer and self.producer.poll() is not None:
            raise StepFailed(
                f"the producer ended with {self.producer.returncode}; its log: {self.settings.home / 'producer.log'}"
            )

    def wait(
        self, condition: Callable[[], object], deadline_s: float, what: str, seen: Callable[[], object] = lambda: ""
    ) -> object:
        return wait_for(condition, deadline_s / self.pace, what, seen, self.alive)

    # what is known of the stream
    def event_time(self) -> str:
        ends = [str(v["window_end"]) for v in self.watch.verdicts[-50:]]  # type: ignore[union-attr]
        return max(ends, default="")

    def decisions(self, *actions: str) -> list[Json]:
        return [e for e in list(self.watch.ledger) if e["action"] in actions]  # type: ignore[union-attr]

    def alerts(self, state: str, episode: object = None) -> list[Json]:
        return [
            a
            for a in list(self.watch.alerts)
            if a["state"] == state and a["source"] == "data" and episode in (None, a["episode"])
        ]  # type: ignore[union-attr]

    def next_phase(self) -> str:
        """Tell the producer to begin the next scenario now; the event time at which it did."""
        marker = self.settings.home / "producer.json"
        before = marker.read_text() if marker.exists() else ""
        self.producer.send_signal(signal.SIGUSR1)  # type: ignore[union-attr]
        self.wait(lambda: marker.exists() and marker.read_text() != before, 20, "the producer to change its scenario")
        return str(json.loads(marker.read_text())["began"])

    def ask(self) -> Json:
        answer = httpx.post(
            f"{self.settings.serving}/predict",
            content=self.sample,
            headers={"content-type": "application/json"},
            timeout=10,
        )
        if answer.status_code != 200:
            raise StepFailed(f"/predict answered {answer.status_code}: {answer.text}")
        self.answers.append(answer.json())
        return answer.json()


def start(story: Story) -> str:
    story.driftline("up", "--deadline", f"{UP_DEADLINE_S / story.pace:.0f}")
    story.watch = Watch(story.settings, story.contract)
    console.print(story.driftline("status"), end="")
    return "broker and every process ready"


def _start(days: int) -> str:
    """Six in the morning, days ago: the story begins with a day's trade, whatever the hour it is told at."""
    day = datetime.now(UTC) - timedelta(days=days)
    return day.replace(hour=6, minute=0, second=0, microsecond=0).isoformat()


def stream(story: Story) -> str:
    log = (story.settings.home / "producer.log").open("wb")
    words = [
        "produce",
        "--schedule",
        story.phases,
        "--start",
        _start(story.days),
        "--speed",
        str(SPEED * story.pace),
        "--rate",
        str(RATE * story.pace),
        "--seed",
        "7",
        "--phase-file",
        str(story.settings.home / "producer.json"),
    ]
    story.producer = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *words], env=story.environment, stdout=log, stderr=log
    )

    def landed() -> int:
        try:
            return int(table.scan(story.settings, story.contract.id).select(pl.len()).collect().item())
        except Exception:  # the table is made by the first commit
            return 0

    rows = story.wait(landed, 60, "the first rows in the lake")
    story.sample = next(m.value() for m in read_all(story.settings, topics.valid(story.contract.id)))
    return f"{RATE * story.pace:,.0f} events/s at {SPEED * story.pace:,.0f} x event time, 0.5 % of them damaged; first commit with {rows:,} rows"


def first_model(story: Story) -> str:
    entry = story.wait(
        lambda: story.decisions("promote"),
        240,
        "the first model to pass the gate",
        lambda: [e["reason"] for e in story.decisions("hold", "refuse")][-2:],
    )[0]  # type: ignore[index]
    answer = story.wait(lambda: _answer(story), 30, "the first model in service")
    trained: Json = next(e for e in story.decisions("train") if e["version"] == entry["version"])  # type: ignore[index]
    story.facts["v1"] = entry["version"]
    facts, rows = trained["metrics"], trained["data"]["rows"]  # type: ignore[index]
    told = ", ".join(f"{n.replace('_', ' ')} {facts[n]:.3f}" for n in ("log_loss", "baseline_log_loss", "auc"))  # type: ignore[index]
    return f"v{entry['version']} trained on {rows:,} labelled orders ({told}); gate: {entry['reason']}; /predict -> {answer['score']:.3f} by v{answer['version']}"  # type: ignore[index]


def _answer(story: Story) -> Json | None:
    try:
        return story.ask()
    except (StepFailed, httpx.HTTPError):
        return None


def scored(story: Story) -> str:
    topic = topics.predictions(story.contract.id)

    def stream_rows() -> int:
        return sum(1 for m in read_all(story.settings, topic) if b'"raw":null' not in m.value())

    rows = story.wait(stream_rows, 60, "predictions of stream rows")
    return f"{rows:,} orders of the stream scored so far"


def quiet(story: Story) -> str:
    feature = story.contract.drift.features[0].name
    story.wait(
        lambda: len([v for v in story.watch.windows(feature) if v["state"] == "ok"]) >= QUIET_WINDOWS,
        150,
        f"{QUIET_WINDOWS} quiet windows under the first reference",
        lambda: [v["state"] for v in story.watch.windows(feature)][-3:],
    )  # type: ignore[union-attr]
    if fired := story.alerts("firing"):
        raise StepFailed(f"an episode fires although nothing has changed yet: {fired}")
    return f"{QUIET_WINDOWS} windows closed, no page"


def shift(name: str) -> Step:
    def step(story: Story) -> str:
        onset = story.next_phase()
        story.marks.append((onset, name))
        story.facts[f"{name}_at"] = onset
        return _detect(story, onset, name, 90)

    return step


def _detect(story: Story, onset: str, name: str, deadline_s: float) -> str:
    known = {a["episode"] for a in story.alerts("resolved")}
    alert: Json = story.wait(
        lambda: next((a for a in story.alerts("firing") if a["episode"] not in known), None),
        deadline_s,
        f"an episode for {name}",
    )  # type: ignore[assignment]
    seen_min, delay_min = ((to_ms(str(alert[at])) - to_ms(onset)) / 60_000 for at in ("event_time", "window_end"))
    windows = delay_min / (story.contract.drift.window.total_seconds() / 60)
    story.facts[f"{name}_episode"], story.facts[f"{name}_delay_minutes"] = alert["episode"], round(delay_min, 1)
    story.facts[f"{name}_alert"] = alert
    _show_moved(alert)
    return (
        f"episode fires with the window that ends {delay_min:.0f} event minutes ({windows:.1f} windows) after the change, "
        f"the evidence was there after {seen_min:.0f}; onset estimated {str(alert['onset'])[:16]}"
    )


MOVED = ("feature", "segment", "D", "p", "rows", "change", "quantiles before (5 25 50 75 95 %)", "after")


def _moved(alert: Json) -> list[tuple[str, ...]]:
    return [
        (
            f["feature"],
            f["segment"],
            _figure(f["statistic"]),
            _figure(f["p_value"]),
            f"{f['n']:,}",
            str(f["change"] or ""),
            _figures(f["quantiles_reference"]),
            _figures(f["quantiles_window"]),
        )
        for f in alert["features"][:6]  # type: ignore[index]
    ]


def _show_moved(alert: Json) -> None:
    table_ = RichTable(title="what moved", title_justify="left")
    for name in MOVED:
        table_.add_column(name)
    for row in _moved(alert):
        table_.add_row(*row)
    console.print(table_)


def decided(story: Story) -> str:
    """Kept is the rule; another model takes over only where it is shown to be materially better on the rows since."""
    episode = story.facts["harmless-shift_episode"]
    entry: Json = story.wait(
        lambda: next((e for e in story.decisions("accept", "promote") if e["episode"] == episode), None),
        240,
        "the decision on the harmless shift",
        lambda: [(e["action"], e["reason"]) for e in story.watch.ledger][-3:],
    )  # type: ignore[assignment,union-attr]
    kept = entry["action"] == "accept"
    serving = story.facts["v1"] if kept else entry["version"]
    story.facts["answered_by"] = "same model, new reference" if kept else f"v{serving}, which does better"
    answer: Json = story.wait(
        lambda: found if (found := story.ask())["version"] == serving else None,
        20,
        f"version {serving} to serve",
        story.ask,
    )  # type: ignore[assignment]
    story.marks.append((story.event_time(), "accepted" if kept else f"v{serving}"))
    return f"{story.facts['answered_by']}: {entry['reason']}; /predict -> {answer['score']:.3f} by v{answer['version']}"


def promoted(story: Story) -> str:
    episode = story.facts["price-shift_episode"]
    entry: Json = story.wait(
        lambda: next((e for e in story.decisions("promote") if episode in episodes_of(e)), None),
        240,
        "a better model to pass the gate",
        lambda: [(e["action"], e["reason"]) for e in story.watch.ledger][-3:],
    )  # type: ignore[assignment,union-attr]
    answer = story.wait(
        lambda: (a := _answer(story)) and a["version"] == entry["version"] and a, 30, f"v{entry['version']} in service"
    )
    story.facts["v2"] = entry["version"]
    refused = [e for e in story.decisions("hold") if e["version"] and e["episode"] == episode]
    told = "".join(f"v{e['version']} refused: {e['reason']}; then " for e in refused)
    story.marks.append((story.event_time(), f"v{entry['version']} promoted"))
    return f"{told}v{entry['former']} -> v{entry['version']} for episode {episode}: {entry['reason']}; /predict -> {answer['score']:.3f} by v{answer['version']}"  # type: ignore[index]


def resolved(name: str) -> Step:
    def step(story: Story) -> str:
        alert: Json = story.wait(
            lambda: story.alerts("resolved", story.facts[f"{name}_episode"]),
            90,
            f"the episode of {name} to resolve",
            lambda: [(a["state"], a["event_time"]) for a in story.watch.alerts][-4:],
        )[-1]  # type: ignore[index,union-attr,assignment]
        return f"{alert['resolution']} at {str(alert['event_time'])[:16]} (event time): a quiet window under reference {alert['reference_version']}"

    return step


def proof(story: Story) -> str:
    story.producer.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    if story.producer.wait(30) != 0:  # type: ignore[union-attr]
        raise StepFailed(f"the producer ended with {story.producer.returncode}")  # type: ignore[union-attr]
    producer, story.producer = story.producer, None

    def sound() -> Json | None:
        report = json.loads(story.driftline("verify", "--json", check=False).strip().splitlines()[-1])
        story.facts["verify"] = report
        return report if report["ok"] and report["lake"] == report["valid"] and report["lag"] == 0 else None

    report: Json = story.wait(sound, 90, "everything produced to be in the lake", lambda: story.facts.get("verify"))  # type: ignore[assignment]
    _ = producer
    return f"{report['consumed']:,} in = {report['valid']:,} valid + {report['dead']:,} dead; lake {report['lake']:,}"


def draw(story: Story) -> str:
    out = story.settings.home / "report"
    out.mkdir(parents=True, exist_ok=True)
    alert: Json = story.facts["price-shift_alert"]  # type: ignore[assignment]
    feature = next(f["feature"] for f in alert["features"] if f["kind"] == "numeric")  # type: ignore[index,union-attr]
    start_ms = to_ms(str(story.facts["price-shift_at"]))
    time_ = pl.col(story.contract.time.field).dt.epoch("ms")
    rows = table.scan(story.settings, story.contract.id)
    references = [e["reference"] for e in story.decisions("promote", "accept") if e["reference"]]
    reference = references[-2]  # the last one came with the model that answered the shift
    low, high = (to_ms(str(reference[end])) for end in ("from", "to"))  # type: ignore[index]
    before = rows.filter((time_ >= low) & (time_ < high)).select(feature).collect()[feature].drop_nulls().to_numpy()
    after = (
        rows.filter((time_ >= start_ms) & (time_ < start_ms + 3_600_000))
        .select(feature)
        .collect()[feature]
        .drop_nulls()
        .to_numpy()
    )
    pictures.ecdfs(
        out / "ecdf.png",
        feature,
        np.asarray(before, float),
        np.asarray(after, float),
        "price-shift, the first event hour after the change",
    )
    pictures.over_time(
        out / "drift.png", {f.name: story.watch.windows(f.name) for f in story.contract.drift.features}, story.marks
    )  # type: ignore[union-attr]
    pictures.loss_by_version(out / "loss.png", pictures.losses(story.settings, story.contract), story.marks)
    _report(story, out)
    return f"pictures and report: {_shown(out / 'index.html')}"


def _report(story: Story, out: Path) -> None:
    report: Json = story.facts["verify"]  # type: ignore[assignment]
    verify_rows = [(k, page.number(report[k])) for k in ("produced", "consumed", "valid", "dead", "lake", "lag")] + [
        (k, page.Cell(str(len(report[k])) if isinstance(report[k], list) else str(report[k]), True))
        for k in ("missing", "duplicated")
    ]
    document = page.Page(
        "driftline: what happened",
        f"Every figure comes from this run: real broker, {RATE:,} events/s, event time {SPEED:,} times faster than the clock.",
        (
            page.Section(
                "Timeline",
                table=page.Table(
                    ("at s", "took s", "step", "result"),
                    [(page.number(round(a, 1)), page.number(round(s, 1)), n, r) for a, s, n, r in story.timeline],
                ),
            ),
            (
                page.Section(
                    "The shift that hurt",
                    pictures=(("ecdf.png", "Both distribution functions and the gap that the K-S distance measures."),),
                ),
                page.Section(
                    "Loss by model version",
                    "Stream predictions joined with their late labels.",
                    pictures=(("loss.png", "Mean log loss an event hour; dotted lines mark what happened."),),
                ),
            ),
            *(
                page.Section(f"What moved: {name}", table=page.Table(MOVED, _moved(story.facts[f"{name}_alert"])))  # type: ignore[arg-type]
                for name in ("harmless-shift", "price-shift")
            ),
            page.Section(
                "Statistic and evidence over time",
                pictures=(
                    (
                        "drift.png",
                        "Each closed window: above, the distance and the papers' critical value; below, the evidence and the threshold of the page budget.",
                    ),
                ),
            ),
            page.Section(
                "Nothing lost, nothing twice", "driftline verify", table=page.Table(("count", "value"), verify_rows)
            ),
        ),
    )
    (out / "index.html").write_text(page.html(document))


STEPS: list[tuple[str, Step]] = [
    ("start the stack", start),
    ("stream a baseline", stream),
    ("train and serve v1", first_model),
    ("use it on the stream", scored),
    ("stay quiet", quiet),
    ("harmless-shift: detect", shift("harmless-shift")),
    ("decide", decided),
    ("resolve", resolved("harmless-shift")),
    ("price-shift: detect", shift("price-shift")),
    ("retrain, gate, promote", promoted),
    ("resolve", resolved("price-shift")),
    ("verify", proof),
    ("draw", draw),
]


def main() -> int:
    home = Path(os.environ.get("DRIFTLINE_HOME", ROOT / ".driftline" / "demo"))
    environment = {
        **os.environ,
        "DRIFTLINE_HOME": str(home),
        "DRIFTLINE_FIRST_ROWS": str(FIRST_ROWS),
        "DRIFTLINE_MIN_AFTER": str(MIN_AFTER),
        "PYTHONUNBUFFERED": "1",
    }
    if home.exists():  # what an earlier demo left: stop it, then begin anew
        subprocess.run([sys.executable, "-m", "pipeline.cli", "down"], env=environment, capture_output=True)
        shutil.rmtree(home)
    home.mkdir(parents=True)
    story = Story(from_environment(environment), environment)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as after Ctrl-C: what was started here ends here
    code = 1
    try:
        for name, step in STEPS:
            at = time.monotonic()
            console.print(f"[bold]{at - story.began:6.1f} s  {name}[/bold]")
            result = step(story)
            story.timeline.append((at - story.began, time.monotonic() - at, name, result))
            console.print(f"          {result}")
        code = 0
    except StepFailed as failure:
        console.print(
            f"[bold red]the demo failed at this step:[/bold red] {failure}\n          logs: {_shown(home / 'logs')}"
        )
    finally:
        _stop(story, keep=bool(os.environ.get("KEEP")) and code == 0)
    if code == 0:
        _close(story)
    return code


def _stop(story: Story, keep: bool) -> None:
    if story.watch:
        story.watch.close()
    if story.producer and story.producer.poll() is None:
        story.producer.terminate()
        story.producer.wait(20)
    if not keep:
        story.driftline("down", check=False)


def _close(story: Story) -> None:
    timeline = RichTable(title="timeline", title_justify="left")
    for name in ("at s", "took s", "step", "result"):
        timeline.add_column(name, justify="right" if name.endswith(" s") else "left")
    for at, seconds, name, result in story.timeline:
        timeline.add_row(f"{at:.1f}", f"{seconds:.1f}", name, result)
    console.print(timeline)
    report: Json = story.facts["verify"]  # type: ignore[assignment]
    total = time.monotonic() - story.began
    if os.environ.get("KEEP"):
        for name, port in (
            ("prediction service", "serving"),
            ("drift page", "page"),
            ("Prometheus", "prometheus"),
            ("Alertmanager", "alertmanager"),
            ("MLflow", "mlflow"),
        ):
            console.print(f"{name:<20} http://127.0.0.1:{story.settings.ports[port]}")
        console.print(f"left running; `DRIFTLINE_HOME={_shown(story.settings.home)} .venv/bin/driftline down` stops it")
    console.print(f"report              {_shown(story.settings.home / 'report' / 'index.html')}")
    console.print(f"time                {total:.0f} s (bar: {BUDGET_S} s)")
    console.print(f"events in           {report['consumed']:,} = {report['valid']:,} valid + {report['dead']:,} dead")
    console.print(
        f"lake                {report['lake']:,} = valid {report['valid']:,}; missing {_count(report['missing'])}, duplicated {_count(report['duplicated'])}"
    )
    console.print(
        f"detection delay     {story.facts['harmless-shift_delay_minutes']} event minutes (harmless-shift), {story.facts['price-shift_delay_minutes']} (price-shift)"
    )
    console.print(f"harmless shift      {story.facts['harmless-shift_episode']}: {story.facts['answered_by']}")
    console.print(f"price shift         {story.facts['price-shift_episode']}: v{story.facts['v2']} takes over")


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else int(value)  # type: ignore[call-overload]


def _figure(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "-"


def _figures(values: object) -> str:
    return " ".join(f"{v:.4g}" for v in values) if isinstance(values, list) else "-"


def _shown(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
