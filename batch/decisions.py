"""PURE. What the controller does next: facts in, one step out. No clock, no Kafka, no model.

An episode that fires gets exactly one final decision. Until there is one it is held, with the reason in the ledger; the
step is computed from the ledger and the alerts alone, so a controller that was killed anywhere computes the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from batch.ledger import FINAL, Action, Entry, champion
from pipeline.times import to_ms

CLOSED: tuple[Action, ...] = (*FINAL, "expire")  # nothing more will be said about the episode
ATTEMPT_GROWTH = 1.5  # a challenger that was not good enough is tried again with half as many rows more
TOP_UP_BELOW = (
    6_000  # labelled rows since an onset: below it the splitter wants rows from before, see fitting.ENOUGH_TRAIN
)
DAY_S = 86_400.0
FIRST_LOOK = 500  # labelled answers of a new champion; each further look has half as many more


@dataclass(frozen=True, slots=True)
class Policy:
    first_rows: int = 20_000  # labelled rows before the first training
    min_after: int = 20_000  # labelled rows since an onset: a quarter of them, 5,000, judge the challenger
    every_rows: int | None = None  # also retrain after so many new labelled rows
    every_s: float | None = None  # also retrain after so much wall time
    cooldown_s: float = 30.0  # wall time between two trainings
    budget: int = 24  # trainings a day of wall time
    after_rollback_s: float = 600.0  # wall time without a training after a rollback; doubles with each of the last day


@dataclass(frozen=True, slots=True)
class Episode:
    """The latest word of `drift.alerts` about one episode; times are event time in ms."""

    id: str
    source: Literal["data", "loss"]
    state: Literal["pending", "firing", "resolved"]
    onset: int
    onset_high: int
    resolution: str | None = None
    seen_firing: bool = False
    moved: frozenset[str] = frozenset()  # features in alarm, in any alert of the episode
    causes: frozenset[str] = frozenset()  # the most probable one of each alert


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for; `id` is its coordinate in `control.requests`."""

    id: str
    action: Literal["retrain", "promote", "rollback"]
    version: str | None
    actor: str
    reason: str
    force: bool = False  # promote without the statistics
    expires_s: float | None = None  # wall time after which nobody waits for the answer any more


@dataclass(frozen=True, slots=True)
class Facts:
    now_s: float  # wall time
    entries: Sequence[Entry]  # of the model, from the ledger
    episodes: Sequence[Episode]
    labelled: int  # mature labelled rows in the lake
    labelled_after: Mapping[str, int]  # by episode: those since its onset
    requests: Sequence[Request] = ()
    trained_at: Sequence[float] = ()  # wall times of all trainings, failed ones included
    new_labelled: int = 0  # mature labelled rows that the last training has not seen
    watched: int = 0  # mature labelled rows that arrived since the promotion that is watched
    looked: int = 0  # how many they were at the last look


@dataclass(frozen=True, slots=True)
class Wait:
    reason: str = "nothing to decide"


@dataclass(frozen=True, slots=True)
class Hold:
    """No decision is possible for this episode yet."""

    episode: Episode
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """The episode ended by itself."""

    episode: Episode
    action: Literal["fixed_upstream", "expire"]
    reason: str


@dataclass(frozen=True, slots=True)
class Retrain:
    reason: str
    episode: Episode | None = None
    also: tuple[str, ...] = ()  # other firing episodes that the same answer closes
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class Obey:
    """A person's promote or rollback."""

    request: Request


@dataclass(frozen=True, slots=True)
class Decline:
    """A request that is not followed."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """At the champion since its promotion: is it worse than the one before?"""

    promotion: Entry
    rows: int


Step = Wait | Hold | Close | Retrain | Obey | Decline | Look


def next_step(facts: Facts, policy: Policy) -> Step:
    """The one thing to do now, in order of urgency."""
    open_ = [e for e in facts.episodes if e.id not in closed(facts.entries)]
    over = next((e for e in open_ if e.state == "resolved" and e.seen_firing), None)
    if over:
        return _close(over)
    if asked := _asked(facts, policy):
        return asked
    if look := _look(facts):
        return look
    if champion(facts.entries) is None:
        return _first(facts, policy)
    firing = sorted((e for e in open_ if e.state == "firing"), key=lambda e: (e.source != "data", e.onset, e.id))
    if firing:
        return _for_episode(firing[0], tuple(e.id for e in firing[1:]), facts, policy)
    return _routine(facts, policy)


def closed(entries: Sequence[Entry]) -> set[str]:
    return {episode for e in entries if e.draft.action in CLOSED for episode in e.episodes}


def answered(request: Request, entries: Sequence[Entry]) -> bool:
    return any(e.draft.metrics.get("request") == request.id for e in entries)


def watch_of(entries: Sequence[Entry]) -> Entry | None:
    """The promotion that is watched: the champion's, until the ledger says how its watch ended."""
    now = champion(entries)
    if now is None or now.draft.action != "promote":
        return None
    return None if any(e.draft.metrics.get("watch") == now.seq for e in entries if e.seq > now.seq) else now


def attempts(episode: str, entries: Sequence[Entry]) -> int:
    """Trainings that this episode has already cost."""
    return sum(e.draft.action == "train" and episode in e.episodes for e in entries)


KEPT = (
    "champion",
    "overall",
    "after",
    "live",
    "harm",
    "worst_slice",
    "calibration",
    "groups",
    "replay",
    "cost",
    "denied",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a training's outcome means."""

    action: Literal["promote", "accept", "hold", "refuse"]
    reason: str
    metrics: Mapping[str, object] = field(default_factory=dict)


def judge(gate: Mapping[str, object], in_episode: bool) -> Verdict:
    """The gate's report (compare.Judged.json) -> promote, accept, hold; a routine challenger that fails is refused.

    `accept` needs both: the challenger, taught on what came after the shift, is not (materially) better, and the
    champion's loss is shown to be what its own probabilities promise.
    """
    reasons = gate["reasons"]
    said = "; ".join(str(r) for r in reasons) if isinstance(reasons, list) else str(reasons)
    live = gate.get("live")
    share = ""
    if isinstance(live, dict) and isinstance(live.get("excess"), float) and live.get("promised"):
        share = f"; live loss {live['loss']:.4f}, promised {live['promised']:.4f} ({live['excess'] / live['promised']:+.1%})"
    metrics = {k: gate[k] for k in KEPT if k in gate}
    if gate["promote"] is True:
        return Verdict("promote", said + share, metrics)
    if not in_episode:
        return Verdict("refuse", said, metrics)
    if gate.get("within") is True and gate.get("material") is not True:
        return Verdict("accept", f"inputs moved, the model holds: {said}{share}", metrics)
    return Verdict("hold", f"challenger refused and live loss not within its bound: {said}{share}", metrics)


def _close(episode: Episode) -> Close:
    if episode.resolution == "returned":
        return Close(episode, "fixed_upstream", "the data came back to the reference by itself")
    return Close(episode, "expire", f"ended without a decision: {episode.resolution or 'no resolution given'}")


def _asked(facts: Facts, policy: Policy) -> Step | None:
    """What the oldest request that can be followed asks for. A training by hand obeys the budget and the cooldown, too."""
    for request in (r for r in facts.requests if not answered(r, facts.entries)):
        if request.expires_s is not None and facts.now_s > request.expires_s:
            return Decline(request, "it came too late: nobody waits for the answer any more")
        if request.action != "retrain":
            return Obey(request)
        if _used(facts, policy):
            return Decline(request, f"the budget of {policy.budget} trainings a day is used")
        if not _cooling(facts, policy):
            return Retrain(f"asked by {request.actor}: {request.reason}", request=request)
    return None


def _look(facts: Facts) -> Look | None:
    """A look every half as many labelled rows more: some fifteen from the first to the last."""
    promotion = watch_of(facts.entries)
    if promotion is None or facts.watched < max(FIRST_LOOK, ATTEMPT_GROWTH * facts.looked):
        return None
    return Look(promotion, facts.watched)


def _first(facts: Facts, policy: Policy) -> Step:
    tried = sum(e.draft.action == "refuse" and "request" not in e.draft.metrics for e in facts.entries)
    needed = int(policy.first_rows * ATTEMPT_GROWTH**tried)
    if facts.labelled < needed:
        return Wait(f"{facts.labelled} of {needed} labelled rows for the first training")
    blocked = _blocked(facts, policy, first=True)
    return Wait(blocked) if blocked else Retrain("first training")


def _for_episode(episode: Episode, also: tuple[str, ...], facts: Facts, policy: Policy) -> Step:
    needed = int(policy.min_after * ATTEMPT_GROWTH ** attempts(episode.id, facts.entries))
    if facts.labelled_after.get(episode.id, 0) < needed:
        return Hold(episode, f"fewer than {needed} labelled rows since the onset")
    blocked = _blocked(facts, policy)
    return Hold(episode, blocked) if blocked else Retrain(f"{episode.source} episode {episode.id}", episode, also)


def _routine(facts: Facts, policy: Policy) -> Step:
    last = max(facts.trained_at, default=0.0)
    if policy.every_rows and facts.new_labelled >= policy.every_rows:
        reason = f"{policy.every_rows} new labelled rows"
    elif policy.every_s and facts.now_s - last >= policy.every_s:
        reason = f"schedule of {policy.every_s:.0f} s"
    else:
        return Wait()
    blocked = _blocked(facts, policy)
    return Wait(blocked) if blocked else Retrain(reason)


def _blocked(facts: Facts, policy: Policy, first: bool = False) -> str | None:
    """Why no training may begin now; the texts hold no number that changes, so that one hold is one ledger entry."""
    if not first and _used(facts, policy):
        return f"the budget of {policy.budget} trainings a day is used"
    if _cooling(facts, policy):
        return f"cooldown of {policy.cooldown_s:.0f} s after a training"
    back = [
        to_ms(e.draft.at) / 1000 for e in facts.entries if e.draft.action == "rollback" and "watch" in e.draft.metrics
    ]
    rest = policy.after_rollback_s * 2 ** (sum(facts.now_s - at < DAY_S for at in back) - 1)
    if back and facts.now_s - max(back) < rest:
        return f"cooldown of {rest:.0f} s after a rollback"
    return None


def _used(facts: Facts, policy: Policy) -> bool:
    return sum(facts.now_s - t < DAY_S for t in facts.trained_at) >= policy.budget


def _cooling(facts: Facts, policy: Policy) -> bool:
    return bool(facts.trained_at) and facts.now_s - max(facts.trained_at) < policy.cooldown_s
