"""EDGE. `driftline models list|history|promote|rollback|request`: the ledger for people, and what they may ask of it.

A promotion by hand passes the same gate on the newest labelled rows; a rollback goes to a version that once passed it.
"""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

from batch import dataset, ledger, promotion
from batch.labels import LABEL
from batch.ledger import Draft, Entry, Ledger
from batch.promotion import now
from batch.train import model_name
from pipeline import contract_file, topics
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable
from pipeline.kafka import producer
from pipeline.logs import log
from pipeline.settings import Settings
from pipeline.times import to_ms

GATE_ROWS = 20_000  # newest labelled rows that a promotion by hand is judged on


class Models:
    summary = "Show the ledger's models and decisions; promote through the gate, roll back, ask for a retraining."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="what", required=True)
        for name, text in (
            ("list", "trained versions and what became of them"),
            ("history", "every ledger entry, oldest first; checks the chain"),
        ):
            verbs.add_parser(name, help=text).add_argument("--json", action="store_true", help="one JSON object a line")
        promote = verbs.add_parser("promote", help="make a version champion if it passes the gate")
        promote.add_argument("version")
        back = verbs.add_parser("rollback", help="back to a former champion (default: the one before)")
        back.add_argument("version", nargs="?")
        request = verbs.add_parser("request", help="leave a request for the controller in control.requests")
        request.add_argument("action", choices=("retrain", "promote", "rollback"))
        request.add_argument("--version")
        for verb in (promote, back, request):
            verb.add_argument("--reason", required=True, help="for the ledger")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        model = model_name(contract)
        if args.what in ("list", "history"):
            _show(args, settings, model)
            return 0
        if args.what == "request":
            _request(settings, model, args)
            return 0
        if args.what == "rollback":
            entry = promotion.rollback(
                settings, model, args.version, actor=settings.actor, reason=args.reason, at=now()
            )
        else:
            entry = promote_by_hand(settings, contract, model, args.version, actor=settings.actor, reason=args.reason)
        _settle(settings, contract, model)
        print(
            f"{model}: champion is version {entry.draft.version} (was {entry.draft.former}); ledger entry {entry.seq}"
        )
        return 0


def promote_by_hand(
    settings: Settings,
    contract: Contract,
    model: str,
    version: str | None,
    *,
    actor: str,
    reason: str,
    request: str | None = None,
) -> Entry:
    """Through the gate on the newest labelled rows, or CheckFailed with what the gate says. Its reference stays as it is."""
    from batch import compare
    from batch import model as bundles

    entries = Ledger(ledger.path_of(settings)).entries(model)
    champion, artifact = ledger.champion(entries), ledger.artifact_of(entries, str(version))
    if artifact is None:
        raise CheckFailed(f"{model}: the ledger knows no trained version {version}; `driftline models list` shows them")
    if champion and champion.draft.version == version:
        raise CheckFailed(f"{model}: version {version} is the champion already")
    rows = dataset.labelled(settings, contract).rows.tail(GATE_ROWS)
    scores = bundles.load(*compare.bundle_path(settings.home, artifact)).score(rows)
    if champion is None:
        label = rows[LABEL].to_numpy().astype("int8")
        judged = compare.first(label, scores, float(label.mean()))
    else:
        serving = bundles.load(*compare.bundle_path(settings.home, champion.draft.artifact))
        judged = compare.against(contract, serving, str(champion.draft.version), rows, scores)
    if not judged.decision.promote:
        raise CheckFailed(f"{model} version {version} does not pass the gate: {'; '.join(judged.decision.reasons)}")
    found = judged.json()
    draft = Draft(
        at=now(),
        model=model,
        action="promote",
        version=version,
        actor=actor,
        reason=f"{reason}; {'; '.join(judged.decision.reasons)}",
        policy=judged.decision.policy,
        metrics={"overall": found["overall"], **({"request": request} if request else {})},
        artifact=artifact,
    )
    if champion is None:
        span = dataset.labelled(settings, contract).identity
        draft = promotion.with_reference(settings, contract, draft, to_ms(span.start), to_ms(span.end) + 1)
    return promotion.crown(settings, draft, champion.draft.version if champion else None)


def _show(args: argparse.Namespace, settings: Settings, model: str) -> None:
    book = Ledger(ledger.path_of(settings))
    book.verify()
    entries = book.entries(model)
    if args.what == "history":
        lines = [e.json() for e in entries]
        columns = ("seq", "at", "action", "version", "former", "actor", "episode", "reason")
    else:
        lines, columns = _versions(entries), ("version", "state", "trained", "log_loss", "auc", "rows", "sha256")
    if args.json:
        for line in lines:
            print(json.dumps(line))
        return
    table = Table(*columns, box=None, header_style="bold")
    for line in lines:
        answered = " ".join(str(i) for i in (line.get("episode"), *line.get("also", ())) if i)  # type: ignore[misc]
        shown = {**line, "episode": answered}
        table.add_row(*("" if shown.get(c) is None else str(shown[c]) for c in columns))
    Console().print(table)


def _versions(entries: list[Entry]) -> list[dict[str, object]]:
    now_ = ledger.champion(entries)
    crowned = {e.draft.version for e in entries if e.draft.action in ledger.CROWNS}
    found = []
    for e in entries:
        if e.draft.action == "train":
            d = e.draft
            state = (
                "champion"
                if now_ and d.version == now_.draft.version
                else "former champion"
                if d.version in crowned
                else "challenger"
            )
            loss, auc = d.metrics.get("log_loss"), d.metrics.get("auc")
            found.append(
                {
                    "version": d.version,
                    "state": state,
                    "trained": d.at,
                    "log_loss": round(float(str(loss)), 4) if loss is not None else None,
                    "auc": round(float(str(auc)), 4) if auc is not None else None,
                    "rows": d.data.get("rows"),
                    "sha256": str((d.artifact or {}).get("sha256", ""))[:12],
                }
            )
    return found


def _request(settings: Settings, model: str, args: argparse.Namespace) -> None:
    body = {
        "action": args.action,
        "model": model,
        "version": args.version,
        "actor": settings.actor,
        "reason": args.reason,
        "at": now(),
    }
    client = producer(settings, "models")
    client.produce(topics.REQUESTS, key=model.encode(), value=json.dumps(body).encode())
    if client.flush(15):
        raise Unreachable(f"{topics.REQUESTS}: the broker at {settings.bootstrap} did not take the request within 15 s")


def _settle(settings: Settings, contract: Contract, model: str) -> None:
    try:
        promotion.settle(settings, contract, model)
    except Unreachable as error:  # the ledger holds the decision; the controller brings the rest after it
        log("not_settled", "warning", error=error)
