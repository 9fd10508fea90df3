"""EDGE. `driftline control`: answers drift episodes, requests by people, new rows and a schedule; nothing else.

    # each turn: 1. facts (alerts, requests, ledger, lake)  2. one step (decisions.next_step)  3. carry it out
    # Killed anywhere, it begins again at 1: what was decided stands in the ledger, what was not is decided again.

Training runs in a child process (`driftline train`): scikit-learn and MLflow cost 10-20 s to import and 400 MB, and a
controller that waits for a child can go on answering /healthz.
"""

from __future__ import annotations

import argparse
import math
import os
import threading
import time
from dataclasses import dataclass, field, replace

from batch import dataset, decisions, ledger, promotion, rolling, training_child
from batch.decisions import Close, Episode, Facts, Hold, Obey, Policy, Request, Retrain, Step, Wait
from batch.heard import Heard
from batch.ledger import ChampionMoved, Draft, Ledger
from batch.promotion import now
from batch.train import model_name
from batch.training_child import ChildFailed
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable, UsageError
from pipeline.kafka import reach
from pipeline.logs import log
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import to_ms

ROLL_S = 10.0


class Control:
    summary = "Answer drift episodes and requests: retrain, gate, promote, accept; every decision goes to the ledger."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        default = Policy()
        number = parser.add_argument
        number(
            "--first-rows",
            type=int,
            default=_env("FIRST_ROWS", default.first_rows),
            help="labelled rows before the first training (20,000)",
        )
        number(
            "--min-after",
            type=int,
            default=_env("MIN_AFTER", default.min_after),
            help="labelled rows since an onset before its decision (20,000)",
        )
        number(
            "--every-rows",
            type=int,
            default=_env("EVERY_ROWS", 0) or None,
            help="also retrain after so many new labelled rows (off)",
        )
        number("--every", type=float, metavar="SECONDS", help="also retrain on this schedule, wall time (off)")
        number(
            "--cooldown",
            type=float,
            default=_env("COOLDOWN", int(default.cooldown_s)),
            metavar="SECONDS",
            help="wall time between trainings (30)",
        )
        number("--budget", type=int, default=_env("BUDGET", default.budget), help="trainings a day of wall time (24)")
        parser.add_argument(
            "--poll", type=float, default=1.0, metavar="SECONDS", help="pause between looks at the lake (1)"
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        policy = Policy(args.first_rows, args.min_after, args.every_rows, args.every, args.cooldown, args.budget)
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        with Service("control", settings, meter.exposition) as service:
            reach(settings, deadline_s=None, stopped=service.stopped)
            heard = Heard(contract)
            threads = heard.listen(settings, service.stopped)
            controller = Controller(settings, contract, policy, meter, service)
            while not service.stopped.wait(args.poll):
                service.beat()
                if dead := [t.name for t in threads if not t.is_alive()]:
                    raise Unreachable(f"control: no longer following {', '.join(dead)}")
                if heard.caught_up:
                    controller.turn(heard.episodes(), heard.requests())
                    service.ready()
        return 0


def _env(name: str, default: int) -> int:
    """`DRIFTLINE_<NAME>`, so that the stack can set what the command line of a process table cannot."""
    text = os.environ.get(f"DRIFTLINE_{name}", str(default))
    if text.isdigit():
        return int(text)
    raise UsageError(f"DRIFTLINE_{name}={text}: expected a whole number >= 0; the default is {default}")


@dataclass
class Controller:
    """One step a turn. Holds nothing that the ledger and the topics do not hold, except the times of failed trainings."""

    settings: Settings
    contract: Contract
    policy: Policy
    meter: PrometheusMeter
    service: Service | None = None
    _failed_at: list[float] = field(default_factory=list)
    _settled: bool = False
    _said: str = ""
    _rolled: float = -math.inf

    @property
    def model(self) -> str:
        return model_name(self.contract)

    @property
    def book(self) -> Ledger:
        return Ledger(ledger.path_of(self.settings))

    def turn(self, episodes: list[Episode], requests: list[Request]) -> Step:
        """Look, decide, act. A dependency that is away or data that must not be trained on leaves the turn undone."""
        if not self._settled:
            self._settle()
        facts = self.facts(episodes, requests)
        step = decisions.next_step(facts, self.policy)
        if repr(step) != self._said:
            self._said = repr(step)
            log("step", step=type(step).__name__, reason=getattr(step, "reason", ""))
        try:
            self._do(step)
        except Unreachable as error:
            log("turn_put_off", "warning", step=type(step).__name__, error=error)
            self._settled = False
        except ChampionMoved as error:
            log("champion_moved", "warning", error=error)
        self._measure()
        if isinstance(step, Wait) and self._settled and not any(e.state == "firing" for e in episodes):
            self._roll()
        return step

    def _roll(self) -> None:
        """A last-week or rolling reference, where the contract wants one; looked at every ROLL_S of wall time."""
        if self.contract.drift.reference.kind == "training" or time.monotonic() - self._rolled < ROLL_S:
            return
        self._rolled = time.monotonic()
        try:
            rolling.publish_due(self.settings, self.contract)
        except Unreachable as error:
            log("reference_put_off", "warning", error=error)

    def facts(self, episodes: list[Episode], requests: list[Request]) -> Facts:
        entries = self.book.entries(self.model)
        crowned, shut = ledger.champion(entries), decisions.closed(entries)
        firing = [e for e in episodes if e.state == "firing" and e.id not in shut]
        trainings = [e for e in entries if e.draft.action == "train"]
        last_end = str(trainings[-1].draft.data.get("end", "")) if trainings else ""
        count = lambda start: dataset.count_labelled(self.settings, self.contract, start)  # noqa: E731
        return Facts(
            now_s=time.time(),
            entries=entries,
            episodes=episodes,
            labelled=count(None) if crowned is None else 0,
            labelled_after={e.id: count(e.onset) for e in firing} if crowned else {},
            requests=requests,
            trained_at=[to_ms(e.draft.at) / 1000 for e in trainings] + self._failed_at,
            new_labelled=count(to_ms(last_end) + 1) if self.policy.every_rows and last_end else 0,
        )

    def _do(self, step: Step) -> None:
        match step:
            case Wait():
                return
            case Hold(episode, reason):
                self._write_once(self._draft("hold", reason, episode=episode.id))
            case Close(episode, action, reason):
                self._write_once(self._draft(action, reason, episode=episode.id))
            case Retrain():
                self._retrain(step)
            case Obey(request):
                self._obey(request)

    def _retrain(self, step: Retrain) -> None:
        try:
            result = self._train(step)
        except ChildFailed as failed:
            self._failed_at.append(time.time())
            log("training_failed", "warning", exit_code=failed.code, error=failed)
            if step.episode:
                self._write_once(self._draft("hold", f"training failed: {failed}", episode=step.episode.id))
            elif step.request:
                self._write_once(
                    self._draft("refuse", f"training failed: {failed}", metrics={"request": step.request.id})
                )
            if failed.code == Unreachable.exit_code:
                raise Unreachable(str(failed)) from failed
            return
        self._conclude(step, result)

    def _train(self, step: Retrain) -> dict[str, object]:
        start, since = None, None
        if step.episode:
            start = since = step.episode.onset
            if self.policy.min_after < decisions.TOP_UP_BELOW:
                newest = dataset.newest_event_time(self.settings, self.contract) or since
                start = since - 3 * max(0, newest - since)
        elif (crowned := ledger.champion(self.book.entries(self.model))) and crowned.draft.reference:
            start = to_ms(str(crowned.draft.reference["from"]))  # the world that the champion was made for, and since
        began = time.monotonic()
        result = training_child.run(
            self.settings,
            start=start,
            since=since,
            episode=step.episode.id if step.episode else None,
            reason=step.reason,
            beat=self.service.beat if self.service else lambda: None,
            stopped=self.service.stopped if self.service else threading.Event(),
        )
        self.meter.observe("driftline_training_seconds", time.monotonic() - began, model=self.model)
        return result

    def _conclude(self, step: Retrain, result: dict[str, object]) -> None:
        gate, data, version = result["gate"], result["data"], str(result["version"])
        assert isinstance(gate, dict) and isinstance(data, dict)
        verdict = decisions.judge(gate, step.episode is not None)
        metrics = {**verdict.metrics, **({"request": step.request.id} if step.request else {})}
        draft = Draft(
            at=now(),
            model=self.model,
            action=verdict.action,
            version=version,
            actor=step.request.actor if step.request else "control",
            reason=verdict.reason,
            policy=str(gate["policy"]),
            metrics=metrics,
            data=data,
            episode=step.episode.id if step.episode else None,
            also=step.also,
        )
        log("decision", action=verdict.action, version=version, episode=draft.episode or "none", reason=verdict.reason)
        if verdict.action == "promote":
            draft = self._with_reference(replace(draft, artifact=_mapping(result["artifact"])), step, data)
            promotion.crown(self.settings, draft, _text(gate.get("champion")))
        elif verdict.action == "accept":
            assert step.episode is not None
            champion = _text(gate.get("champion"))
            draft = replace(draft, version=champion, metrics={**metrics, "challenger": version})
            self.book.decide(self._with_reference(draft, step, data))
        else:
            self._write_once(draft)
        self._count(verdict.action)
        self._settle()

    def _with_reference(self, draft: Draft, step: Retrain, data: dict[str, object]) -> Draft:
        """First champion: the rows it was trained on. After a shift: everything since the onset's late estimate."""
        start, end = to_ms(str(data["start"])), to_ms(str(data["end"])) + 1
        if step.episode:
            newest = dataset.newest_event_time(self.settings, self.contract)
            start, end = max(step.episode.onset, step.episode.onset_high), max(end, (newest or 0) + 1)
        return promotion.with_reference(self.settings, self.contract, draft, start, end)

    def _obey(self, request: Request) -> None:
        from batch.models import promote_by_hand  # imports the gate and scikit-learn: only for this

        try:
            if request.action == "rollback":
                promotion.rollback(
                    self.settings,
                    self.model,
                    request.version,
                    actor=request.actor,
                    reason=request.reason,
                    at=now(),
                    request=request.id,
                )
            else:
                promote_by_hand(
                    self.settings,
                    self.contract,
                    self.model,
                    request.version,
                    actor=request.actor,
                    reason=request.reason,
                    request=request.id,
                )
        except CheckFailed as refused:
            self._write_once(
                self._draft(
                    "refuse",
                    f"{request.action} {request.version}: {refused}",
                    actor=request.actor,
                    metrics={"request": request.id},
                )
            )
        self._settle()

    def _draft(
        self,
        action: ledger.Action,
        reason: str,
        *,
        episode: str | None = None,
        actor: str = "control",
        metrics: dict[str, object] | None = None,
    ) -> Draft:
        return Draft(
            at=now(),
            model=self.model,
            action=action,
            actor=actor,
            reason=reason,
            episode=episode,
            metrics=metrics or {},
        )

    def _write_once(self, draft: Draft) -> None:
        if self.book.append_once(draft):
            self._count(draft.action)
            promotion.publish(self.settings)

    def _count(self, action: str) -> None:
        self.meter.inc("driftline_decisions_total", model=self.model, action=action)

    def _settle(self) -> None:
        """Topic, references and alias follow the ledger; what is away now is tried again next turn."""
        try:
            done = promotion.settle(self.settings, self.contract, self.model)
        except Unreachable as error:
            log("not_settled", "warning", error=error)
            self._settled = False
            return
        self._settled = True
        if done:
            log("settled", done="; ".join(done))

    def _measure(self) -> None:
        entry = ledger.champion(self.book.entries(self.model))
        if entry and entry.draft.version and entry.draft.version.isdigit():
            self.meter.set("driftline_champion_version", int(entry.draft.version), model=self.model)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
