"""PURE. Episodes of source `loss`: what the watch of the champion says, as state changes of `drift.alerts`.

One episode at a time. It ends as `rebased` when another champion serves and its own loss is quiet, as `returned` when
the same champion's loss is back within its bound, as `withdrawn` when a pending signal came to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.contract import Contract
from pipeline.times import to_ms, to_text
from stream_processors.live.loss_watch import MATERIAL, RECENT, LossWatch, Recent

State = Literal["pending", "firing"]


@dataclass(frozen=True, slots=True)
class Open:
    """The open episode; `version` is the model whose loss it is about."""

    id: str
    state: State
    version: str
    onset: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Change:
    open: Open | None  # after the change
    alert: Mapping[str, object] | None


def follow(now: Open | None, version: str, watch: LossWatch, contract: Contract, wall_ms: int) -> Change:
    """What the champion `version` and its watch make of the open episode."""
    if not watch.batches:
        return Change(now, None)
    if now is None:
        return _begin(version, watch, contract, wall_ms) if watch.state != "quiet" else Change(None, None)
    if now.version != version:
        quiet = watch.seen >= RECENT and watch.state == "quiet" and not watch.recent.material
        return _end(now, "rebased", watch, contract, wall_ms) if quiet else Change(now, None)
    if now.state == "pending" and watch.state == "firing":
        risen = replace(now, state="firing", onset=watch.onset())
        return Change(risen, _alert(risen, "firing", watch, contract, wall_ms, None))
    if watch.recent.within and watch.state == "quiet":
        return _end(now, "returned" if now.state == "firing" else "withdrawn", watch, contract, wall_ms)
    return Change(now, None)


def restored(alert: Mapping[str, object]) -> Open | None:
    """The open episode that the newest alert of this source leaves behind."""
    if alert.get("state") not in ("pending", "firing"):
        return None
    state: State = "firing" if alert["state"] == "firing" else "pending"
    low, high = (to_ms(str(alert.get(k) or alert["onset"])) for k in ("onset_low", "onset_high"))
    return Open(str(alert["episode"]), state, str(alert.get("version", "")), (to_ms(str(alert["onset"])), low, high))


def _begin(version: str, watch: LossWatch, contract: Contract, wall_ms: int) -> Change:
    state: State = "firing" if watch.state == "firing" else "pending"
    onset = watch.onset()
    begun = Open(f"{contract.id}-loss-{version}-{onset[0]}", state, version, onset)
    return Change(begun, _alert(begun, state, watch, contract, wall_ms, None))


def _end(now: Open, resolution: str, watch: LossWatch, contract: Contract, wall_ms: int) -> Change:
    return Change(None, _alert(now, "resolved", watch, contract, wall_ms, resolution))


def _alert(
    episode: Open, state: str, watch: LossWatch, contract: Contract, wall_ms: int, resolution: str | None
) -> dict[str, object]:
    last, (onset, low, high) = list(watch.batches)[-RECENT:], episode.onset
    return {
        "episode": episode.id,
        "contract": contract.name,
        "dataset": contract.id,
        "source": "loss",
        "state": state,
        "at": to_text(wall_ms),
        "event_time": to_text(last[-1].last_ms),
        "onset": to_text(onset),
        "onset_low": to_text(low),
        "onset_high": to_text(high),
        "window_start": to_text(last[0].first_ms),
        "window_end": to_text(last[-1].last_ms),
        "features": [_feature(watch.recent, watch.signals)],
        "reference_version": None,
        "resolution": resolution,
        "provisional": False,
        "version": episode.version,
    }


def _feature(recent: Recent, signals: list[str]) -> dict[str, object]:
    share = recent.excess / recent.promised if recent.promised else 0.0
    return {
        "feature": "excess log loss",
        "segment": "*",
        "kind": "numeric",
        "statistic": recent.excess,
        "p_value": None,
        "n": recent.rows,
        "effect": share,
        "psi": None,
        "e_value": None,
        "threshold": MATERIAL,
        "rule": "+".join(signals),
        "change": f"loss {share:+.1%} against what the scores promise",
        "quantiles_reference": None,
        "quantiles_window": None,
    }
