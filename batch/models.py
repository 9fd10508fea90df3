"""EDGE. `driftline models list|history|watch|live|trace|attribution|online|rebuild|promote|rollback|retrain`: the ledger for people, and what they may ask.

What changes something is asked of the controller through `control.requests`, and its answer is awaited in the ledger, so
that there is one who decides. `--direct` decides in this home instead, for when no controller runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from batch import ledger, ledger_topic, promotion
from batch.ledger import Entry, Ledger, LedgerBroken
from batch.promotion import Refused, now
from batch.train import model_name
from pipeline import contract_file, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.kafka import producer, reach, read_all
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import ms, to_ms, to_text
from stream_processors.live import live_told

WAIT_S = {"promote": 60.0, "rollback": 60.0, "retrain": 300.0}  # a training takes 20 s, longer on busy cores
UNAWAITED_S = 3600.0  # a request that nobody waits for is followed within the hour, or not at all
POLL_S = 0.3
COPY_S = 5.0
BY_HAND = "by hand"  # of no controller


class Models:
    summary = "Show the ledger's models and decisions; promote through the gate, roll back, ask for a retraining."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="what", required=True)
        listing = verbs.add_parser("list", help="trained versions and what became of them")
        history = verbs.add_parser(
            "history", help="every ledger entry, oldest first; checks the chain and its copy in Kafka"
        )
        history.add_argument("--at", metavar="TIME", help="who was champion then (RFC 3339), and why")
        watch = verbs.add_parser(
            "watch", help="the champion's live outcomes since its promotion, beside the one before"
        )
        live = verbs.add_parser("live", help="what the versions' answers came to: figures by slice, with intervals")
        live.add_argument("--windows", type=int, default=24, metavar="N", help="newest windows of each version (24)")
        live.add_argument("--version", help="only this one")
        promote = verbs.add_parser("promote", help="make a version champion if it passes the gate")
        promote.add_argument("version")
        promote.add_argument(
            "--force", action="store_true", help="without the statistics; files, schema and budgets are still checked"
        )
        back = verbs.add_parser("rollback", help="back to a former champion (default: the one before)")
        back.add_argument("version", nargs="?")
        retrain = verbs.add_parser("retrain", help="train a challenger now; the gate decides about it")
        for verb in (promote, back, retrain):
            verb.add_argument("--reason", required=True, help="for the ledger")
            verb.add_argument(
                "--wait", type=float, metavar="SECONDS", help="for the answer (60; retrain 300); 0 = do not"
            )
        for verb in (promote, back):
            verb.add_argument("--direct", action="store_true", help="decide in this home, without the controller")
        rebuild = verbs.add_parser("rebuild", help="read a version's training rows again, train again, compare digests")
        rebuild.add_argument("version")
        rebuild.add_argument("--out", type=Path, metavar="DIR", help="keep the bundle that comes out")
        trace = verbs.add_parser("trace", help="a prediction back to its model, decision, data, offsets, dead letters")
        trace.add_argument("prediction", help="its id, the key of its row, or the raw coordinate: sales.events[2]@1841")
        learning = verbs.add_parser("online", help="a model that learns label by label, beside the champion")
        parts = verbs.add_parser("attribution", help="what moved a model's answers: each feature's part, by window")
        parts.add_argument("--version", help="of the model (default: the champion)")
        parts.add_argument("--from", dest="since", metavar="TIME", help="first event time (default: behind its training data)")  # fmt: skip
        parts.add_argument("--to", dest="until", metavar="TIME", help="event time to stop before (default: the newest)")
        parts.add_argument("--window", metavar="SPAN", help="e.g. 1d, 12h (default: the contract's drift window)")
        parts.add_argument("--rows", type=int, default=1_000, metavar="N", help="sampled a window (1,000)")
        parts.add_argument("--plot", type=Path, metavar="FILE", help="the windows as svg or png")
        for verb in (listing, history, watch, live, promote, back, retrain, rebuild, trace, parts, learning):
            verb.add_argument("--json", action="store_true", help="JSON, one object a line")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        model = model_name(contract)
        if args.what in ("list", "history"):
            _show(args, settings, model)
        elif args.what == "watch":
            _watch(args, settings, contract, model)
        elif args.what == "live":
            _live(args, settings, contract)
        elif args.what == "rebuild":
            _rebuild(args, settings, contract, model)
        elif args.what == "trace":
            from batch.trace import trace

            found = trace(settings, contract, model, args.prediction)
            print(json.dumps(found.json()) if args.json else found.text())
        elif args.what == "online":
            from batch import online, online_file

            said = online_file.look(settings, contract, model)
            print(json.dumps(said) if args.json else online.text(said))
        elif args.what == "attribution":
            _attribution(args, settings, contract, model)
        else:
            direct = getattr(args, "direct", False)
            entry = _directly(args, settings, contract, model) if direct else _ask(args, settings, model)
            _tell(args, model, entry)
        return 0


def _directly(args: argparse.Namespace, settings: Settings, contract: Contract, model: str) -> dict[str, object]:
    who = {"actor": settings.actor, "reason": args.reason}
    try:
        if args.what == "rollback":
            asked = {"request": BY_HAND}
            entry = promotion.rollback(settings, contract, model, args.version, **who, at=now(), metrics=asked)
        else:
            from batch.hand import promote  # imports scikit-learn

            entry = promote(settings, contract, model, args.version, **who, force=args.force, request=BY_HAND)
    except (Refused, LedgerBroken):
        raise  # the ledger has it, or nothing more may be written to it
    except CheckFailed as refused:
        said = f"{args.what} {args.version or ''}".strip() + f": {refused}"
        draft = promotion.draft_of(settings, contract, model, "refuse", said, settings.actor)
        metrics = {"request": BY_HAND, "asked": args.reason}
        promotion.note(settings, replace(draft, version=args.version, metrics=metrics))
        raise
    try:
        promotion.settle(settings, contract, model)
    except Unreachable as error:  # the ledger holds the decision; the controller brings the rest after it
        log("not_settled", "warning", error=error)
    return entry.json()


def _ask(args: argparse.Namespace, settings: Settings, model: str) -> dict[str, object] | None:
    """Leave a request; the ledger entry that answers it, or None if nobody is to wait for one."""
    wait = WAIT_S[args.what] if args.wait is None else args.wait
    request = _leave(args, settings, model, wait or UNAWAITED_S)
    until = time.monotonic() + wait
    while time.monotonic() < until:
        for line in ledger_topic.read(settings):
            metrics = line.get("metrics")
            if isinstance(metrics, dict) and metrics.get("request") == request:
                return line
        time.sleep(POLL_S)
    if wait == 0:
        return None
    raise Unreachable(
        f"no answer to {request} within {wait:.0f} s; is `driftline control` running? The request expires by itself; "
        "`--direct` decides about a promotion or a rollback without the controller"
    )


def _leave(args: argparse.Namespace, settings: Settings, model: str, lives_s: float) -> str:
    """The request's name: its coordinate in control.requests."""
    body = {
        "action": args.what,
        "model": model,
        "version": getattr(args, "version", None),
        "force": getattr(args, "force", False),
        "actor": settings.actor,
        "reason": args.reason,
        "at": now(),
        "expires": to_text(int((datetime.now(UTC).timestamp() + lives_s) * 1000)),
    }
    placed: list[str] = []
    client = producer(settings, "models")
    client.produce(
        topics.REQUESTS,
        key=model.encode(),
        value=json.dumps(body).encode(),
        on_delivery=lambda error, m: None if error else placed.append(f"{m.topic()}[{m.partition()}]@{m.offset()}"),
    )
    if client.flush(15) or not placed:
        raise Unreachable(f"{topics.REQUESTS}: the broker at {settings.bootstrap} did not take the request within 15 s")
    return placed[0]


def _tell(args: argparse.Namespace, model: str, entry: dict[str, object] | None) -> None:
    if entry is None:
        print(json.dumps({"asked": args.what}) if args.json else f"{model}: {args.what} asked of the controller")
        return
    if args.json:
        print(json.dumps(entry))
    if entry["action"] == "refuse":
        raise CheckFailed(f"{model}: refused: {entry['reason']} (ledger entry {entry['seq']})")
    if not args.json:
        print(
            f"{model}: champion is version {entry['version']} (was {entry['former']}); {entry['reason']}; ledger entry {entry['seq']}"
        )


def _watch(args: argparse.Namespace, settings: Settings, contract: Contract, model: str) -> None:
    from batch import watch
    from batch.watched import look  # imports scikit-learn

    found = look(settings, contract, model).json()
    print(
        json.dumps(found)
        if args.json
        else f"{model} version {found['champion']}: {watch.told(found)}; verdict: {found['verdict']}"
    )


def _live(args: argparse.Namespace, settings: Settings, contract: Contract) -> None:
    records = [json.loads(m.value() or b"{}") for m in read_all(settings, topics.evaluations(contract.id))]
    chosen = [r for r in records if r and args.version in (None, r["version"])]
    lines = list(live_told.summed(chosen, contract.evaluation, max(args.windows, 1)))
    if args.json:
        for line in lines:
            print(json.dumps(line))
        return
    for version in dict.fromkeys(str(line["version"]) for line in lines):
        print(*live_told.paragraph([line for line in lines if line["version"] == version]), sep="\n")


def _attribution(args: argparse.Namespace, settings: Settings, contract: Contract, model: str) -> None:
    from batch import attribution_text
    from batch.attributed import look  # imports scikit-learn
    from batch.reference import span_of

    since, until = (_time(getattr(args, name), flag) for name, flag in (("since", "--from"), ("until", "--to")))
    window = ms(span_of(args.window, "--window")) if args.window else None
    if args.rows < 1:
        raise UsageError(f"--rows {args.rows}: expected a number of rows, 1 or more")
    if args.plot and args.plot.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {args.plot}: expected a name that ends in .svg or .png")
    found = look(settings, contract, model, args.version, since=since, until=until, window=window, rows=args.rows)
    if args.plot:
        from batch.attribution_plot import draw  # matplotlib takes half a second to import

        draw(found, args.plot)
    print(json.dumps(found.json()) if args.json else attribution_text.text(found))


def _time(text: str | None, flag: str) -> int | None:
    try:
        return None if text is None else to_ms(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error}") from error


def _rebuild(args: argparse.Namespace, settings: Settings, contract: Contract, model: str) -> None:
    from batch.rebuild import rebuild

    found = rebuild(settings, contract, model, args.version, args.out)
    print(json.dumps(found.json()) if args.json else found.text())
    if found.fault:
        raise CheckFailed(f"{model} version {args.version}: {found.fault}")


def _show(args: argparse.Namespace, settings: Settings, model: str) -> None:
    book = Ledger(ledger.path_of(settings))
    book.verify()
    entries = book.entries(model)
    if args.what == "list":
        _print(args, _versions(entries), ("version", "state", "trained", "log_loss", "auc", "rows", "sha256"))
        return
    _compare_copy(settings, book)
    if args.at:
        try:
            then = ledger.champion_at(entries, to_text(to_ms(args.at)))
        except ValueError as error:
            raise UsageError(f"--at {args.at}: {error}") from error
        if then is None:
            raise CheckFailed(f"{model}: no champion at {args.at}")
        entries = [then]
    _print(
        args,
        [e.json() for e in entries],
        ("seq", "at", "action", "version", "former", "actor", "episode", "case", "reason"),
    )


def _compare_copy(settings: Settings, book: Ledger) -> None:
    """LedgerBroken if Kafka holds what the file lacks; a broker that is away is said, and the chain alone counts."""
    try:
        reach(settings, deadline_s=COPY_S)
        copy = ledger_topic.read(settings)
    except Unreachable as error:
        print(f"not compared with {topics.LEDGER}: {error}", file=sys.stderr)
        return
    ledger.check_copy(book.entries(), copy)


def _print(args: argparse.Namespace, lines: list[dict[str, object]], columns: tuple[str, ...]) -> None:
    if args.json:
        for line in lines:
            print(json.dumps(line))
        return
    table = Table(*columns, box=None, header_style="bold")
    for line in lines:
        metrics = line.get("metrics")
        shown = {
            **line,
            "episode": " ".join(ledger.episodes_of(line)),
            "case": metrics.get("case") if isinstance(metrics, dict) else None,
        }
        table.add_row(*("" if shown.get(c) is None else str(shown[c]) for c in columns))
    Console().print(table)


def _versions(entries: list[Entry]) -> list[dict[str, object]]:
    now_, back = ledger.champion(entries), ledger.rolled_back(entries)
    crowned = {e.draft.version for e in entries if e.draft.action in ledger.CROWNS}

    def state(version: str | None) -> str:
        if now_ and version == now_.draft.version:
            return "champion"
        return "rolled back" if version in back else "former champion" if version in crowned else "challenger"

    def rounded(value: object) -> float | None:
        return None if value is None else round(float(str(value)), 4)

    return [
        {
            "version": e.draft.version,
            "state": state(e.draft.version),
            "trained": e.draft.at,
            "log_loss": rounded(e.draft.metrics.get("log_loss")),
            "auc": rounded(e.draft.metrics.get("auc")),
            "rows": e.draft.data.get("rows"),
            "sha256": str((e.draft.artifact or {}).get("sha256", ""))[:12],
        }
        for e in entries
        if e.draft.action == "train"
    ]
