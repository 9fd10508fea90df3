"""EDGE. The controller: one step a turn, carried out.

    # each turn: 1. facts (alerts, requests, ledger, lake)  2. one step (decisions.next_step)  3. carry it out
    # After a promotion it looks at the live outcomes now and then, and rolls back by itself what does worse.
    # Killed anywhere, it begins again at 1: what was decided stands in the ledger, what was not is decided again.

Training and looking run in child processes (`driftline train`, `models watch`): scikit-learn and MLflow cost 10-20 s to
import and 400 MB, and a controller that waits for a child can go on answering /healthz.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from batch import case, dataset, decisions, ledger, promotion, rolling, table, training_child, watch
from batch.attribution_live import AttributionWatch
from batch.decisions import Close, Decline, Episode, Facts, Hold, Look, Obey, Policy, Request, Retrain, Step, Wait
from batch.ledger import ChampionMoved, Draft, Ledger, LedgerBroken
from batch.promotion import now
from batch.train import model_name
from batch.training_child import ChildFailed
from monitoring.metrics import PrometheusMeter
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, Unreachable
from pipeline.logs import log
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import to_ms


@dataclass
class Controller:
    """One step a turn. Holds nothing that the ledger and the topics do not hold, except when trainings failed and looks were."""

    settings: Settings
    contract: Contract
    policy: Policy
    meter: PrometheusMeter
    service: Service | None = None
    attribution: AttributionWatch | None = None
    _failed_at: list[float] = field(default_factory=list)
    _settled: bool = False
    _said: str = ""
    _looked: tuple[int, int] = (0, 0)  # promotion, rows at its last look
    _episodes: dict[str, Episode] = field(default_factory=dict)  # by id, as this turn heard them

    def __post_init__(self) -> None:
        self._rolling = rolling.Rolling(self.settings, self.contract)

    @property
    def model(self) -> str:
        return model_name(self.contract)

    @property
    def book(self) -> Ledger:
        return Ledger(ledger.path_of(self.settings))

    def turn(self, episodes: list[Episode], requests: list[Request]) -> Step:
        """Look, decide, act. A dependency that is away or data that must not be trained on leaves the turn undone."""
        self._episodes = {e.id: e for e in episodes}
        try:
            if not self._settled:
                self._settle()
            facts = self.facts(episodes, requests)
            step = decisions.next_step(facts, self.policy)
            self.book.verify()  # in every turn: an edited line pages also while there is nothing to decide
            if not isinstance(step, Wait):
                promotion.publish(self.settings)  # a file that was cut holds as a chain; its copy knows better
        except LedgerBroken as broken:
            return self._refuse_to_decide(broken)
        except Unreachable as error:
            log("turn_put_off", "warning", error=error)
            self._settled = False
            return Wait(str(error))
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
        except LedgerBroken as broken:
            return self._refuse_to_decide(broken)
        self._measure()
        if isinstance(step, Wait) and self._settled:
            self._rolling.turn(episodes)
        return step

    def _refuse_to_decide(self, broken: LedgerBroken) -> Step:
        """The process stays up, so that the gauge pages; it decides again as soon as the chain holds again."""
        if self._said != str(broken):
            self._said = str(broken)
            log("ledger_broken", "error", error=broken)
        self._settled = False
        self.meter.set("driftline_ledger_intact", 0.0, model=self.model)
        return Wait(str(broken))

    def facts(self, episodes: list[Episode], requests: list[Request]) -> Facts:
        entries = self.book.entries(self.model)
        crowned, shut = ledger.champion(entries), decisions.closed(entries)
        firing = [e for e in episodes if e.state == "firing" and e.id not in shut]
        trainings = [e for e in entries if e.draft.action == "train"]
        last_end = str(trainings[-1].draft.data.get("end", "")) if trainings else ""
        count = partial(dataset.count_labelled, self.settings, self.contract)
        crowning = decisions.watch_of(entries)
        return Facts(
            now_s=time.time(),
            entries=entries,
            episodes=episodes,
            labelled=count(None) if crowned is None else 0,
            labelled_after={e.id: count(e.onset) for e in firing} if crowned else {},
            requests=requests,
            trained_at=[to_ms(e.draft.at) / 1000 for e in trainings] + self._failed_at,
            new_labelled=count(to_ms(last_end) + 1) if self.policy.every_rows and last_end else 0,
            watched=count(arrived_since=to_ms(crowning.draft.at)) if crowning else 0,
            looked=self._looked[1] if crowning and self._looked[0] == crowning.seq else 0,
        )

    def _do(self, step: Step) -> None:
        match step:
            case Wait():
                return
            case Hold(episode, reason):
                self._write_once(self._draft("hold", reason, episode=episode.id, metrics=self._case((episode.id,))))
            case Close(episode, action, reason):
                self._write_once(self._draft(action, reason, episode=episode.id, metrics=self._case((episode.id,))))
            case Retrain():
                self._retrain(step)
            case Obey(request):
                self._obey(request)
            case Decline(request, reason):
                self._decline(request, f"{request.action} {request.version or ''}".strip() + f": {reason}")
            case Look():
                self._look(step)

    def _retrain(self, step: Retrain) -> None:
        try:
            result = self._train(step)
        except ChildFailed as failed:
            self._failed_at.append(time.time())
            log("training_failed", "warning", exit_code=failed.code, error=failed)
            if step.episode:
                self._write_once(
                    self._draft(
                        "hold",
                        f"training failed: {failed}",
                        episode=step.episode.id,
                        metrics=self._case((step.episode.id, *step.also)),
                    )
                )
            elif step.request:
                self._decline(step.request, f"training failed: {failed}")
            else:  # nobody asked but the rows or the schedule
                self._write_once(self._draft("hold", f"training failed: {failed}"))
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
            **self._child(),
        )
        self.meter.observe("driftline_training_seconds", time.monotonic() - began, model=self.model)
        return result

    def _look(self, step: Look) -> None:
        """The champion's live outcomes beside the former champion's answers to the same rows; maybe a rollback."""
        self._looked = (step.promotion.seq, step.rows)
        try:
            found = training_child.ask(self.settings, ["models", "watch", "--json"], **self._child())
        except ChildFailed as failed:
            log("look_failed", "warning", exit_code=failed.code, error=failed)
            return
        if found["seq"] != step.promotion.seq:  # another champion by now: another watch
            return
        self._show_watch(float(str(found["rows"] or 0)), float(str(found["log_e"] or 0)))
        verdict, said = str(found["verdict"]), watch.told(found)
        log("look", version=found["champion"], rows=found["rows"], verdict=verdict, evidence=found["log_e"])
        metrics: dict[str, object] = {"watch": step.promotion.seq, "evidence": found}
        if verdict == "rollback":
            promotion.rollback(
                self.settings,
                self.contract,
                self.model,
                _text(found["former"]),
                actor="control",
                reason=said,
                at=now(),
                metrics=metrics,
                of=_text(found["champion"]),
            )
            self._count("rollback")
        elif verdict in ("keep", "alert"):
            action: ledger.Action = "keep" if verdict == "keep" else "hold"
            draft = self._draft(action, said, metrics=metrics)
            self._write_once(replace(draft, version=_text(found["champion"]), policy=str(found["policy"])))
        if verdict != "watch":
            self._settle()

    def _child(self) -> dict[str, Any]:
        """What a child process needs of this one: a heartbeat while it runs, and an end when this one must stop."""
        return {
            "beat": self.service.beat if self.service else lambda: None,
            "stopped": self.service.stopped if self.service else threading.Event(),
        }

    def _conclude(self, step: Retrain, result: dict[str, object]) -> None:
        gate, data, version = result["gate"], result["data"], str(result["version"])
        assert isinstance(gate, dict) and isinstance(data, dict)
        verdict = decisions.judge(gate, step.episode is not None)
        metrics = {**verdict.metrics, **({"request": step.request.id} if step.request else {})}
        if step.episode:
            metrics |= self._case((step.episode.id, *step.also), gate)
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

    def _case(self, answered: tuple[str, ...], gate: dict[str, object] | None = None) -> dict[str, object]:
        """The case by name; an episode that is about the same change counts, whether or not this entry answers it."""
        entries = self.book.entries(self.model)
        shut = decisions.closed(entries) - set(answered)
        about = [e for e in self._episodes.values() if e.id in answered or (e.state == "firing" and e.id not in shut)]
        crowned = ledger.champion(entries)
        version = crowned.draft.version if crowned else None
        trained = (e for e in entries if e.draft.action == "train" and e.draft.version == version)
        tested = next((e.draft.metrics.get("log_loss") for e in trained), None)
        since = min((e.onset for e in about), default=None)
        known = self.attribution.since(version, since) if self.attribution and since is not None else {}
        seen = case.seen(about, gate, tested, self._violations(), self.contract.watched_history)
        rules = {"rules": sorted(seen.rules)} if seen.rules else {}
        return {"case": case.case_of(seen), **rules, **known}

    def _violations(self) -> list[dict[str, str]]:
        """Dataset rules that failed, as the lake's newest commit lists them."""
        lake = table.newest(self.settings, self.contract.id)
        return table.violations(lake.metadata) if lake else []

    def _with_reference(self, draft: Draft, step: Retrain, data: dict[str, object]) -> Draft:
        """First champion: the rows it was trained on. After a shift: everything since the onset's late estimate."""
        start, end = to_ms(str(data["start"])), to_ms(str(data["end"])) + 1
        if step.episode:
            newest = dataset.newest_event_time(self.settings, self.contract)
            start, end = max(step.episode.onset, step.episode.onset_high), max(end, (newest or 0) + 1)
        return promotion.with_reference(self.settings, self.contract, draft, start, end)

    def _obey(self, request: Request) -> None:
        who = {"actor": request.actor, "reason": request.reason}
        try:
            if request.action == "rollback":
                metrics = {"request": request.id}
                promotion.rollback(
                    self.settings, self.contract, self.model, request.version, **who, at=now(), metrics=metrics
                )
            else:
                from batch.hand import promote  # imports scikit-learn: only for this

                promote(
                    self.settings,
                    self.contract,
                    self.model,
                    request.version,
                    **who,
                    force=request.force,
                    request=request.id,
                    since=self._onset(),
                )
            self._count(request.action)
        except LedgerBroken:
            raise
        except promotion.Refused as refused:
            log("request_refused", "warning", request=request.id, reason=refused)
            self._count("refuse")
        except CheckFailed as refused:
            self._decline(request, f"{request.action} {request.version}: {refused}")
        self._settle()

    def _onset(self) -> int | None:
        """Of the change that nobody has answered yet."""
        shut = decisions.closed(self.book.entries(self.model))
        return min((e.onset for e in self._episodes.values() if e.state == "firing" and e.id not in shut), default=None)

    def _decline(self, request: Request, reason: str) -> None:
        draft = self._draft("refuse", reason, actor=request.actor, metrics={"request": request.id})
        self._write_once(replace(draft, version=request.version))

    def _draft(
        self,
        action: ledger.Action,
        reason: str,
        *,
        episode: str | None = None,
        actor: str = "control",
        metrics: dict[str, object] | None = None,
    ) -> Draft:
        draft = promotion.draft_of(self.settings, self.contract, self.model, action, reason, actor)
        return replace(draft, episode=episode, metrics=metrics or {})

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

    def _show_watch(self, rows: float, log_e: float) -> None:
        self.meter.set("driftline_watch_rows", rows, model=self.model)
        self.meter.set("driftline_watch_log_e", log_e, model=self.model)

    def _measure(self) -> None:
        self.meter.set("driftline_ledger_intact", 1.0, model=self.model)
        entries = self.book.entries(self.model)
        entry = ledger.champion(entries)
        if entry and entry.draft.version and entry.draft.version.isdigit():
            self.meter.set("driftline_champion_version", int(entry.draft.version), model=self.model)
        crowning = decisions.watch_of(entries)
        if crowning and crowning.seq != self._looked[0]:  # a watch that begins: no answers yet, no evidence
            self._looked = (crowning.seq, 0)
            self._show_watch(0, 0)
        back = max((e.draft.at for e in entries if e.draft.action == "rollback"), default=None)
        if back:
            self.meter.set("driftline_rollback_timestamp_seconds", to_ms(back) / 1000, model=self.model)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
