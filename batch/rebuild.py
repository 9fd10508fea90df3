"""EDGE. `driftline models rebuild VERSION`: read a model's training rows again, train again, compare both digests.

Everything comes from the version's ledger entry and the lake: the entry names the offsets that the tables held, the range
that was asked for, onset, seed and code. Decides nothing, registers nothing; `--out` keeps the bundle that came out, which
is the lost one if the digests are equal.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from batch import dataset, ledger
from batch.ledger import Entry, Ledger
from batch.made_with import made_with
from pipeline.contract import Contract
from pipeline.errors import CheckFailed
from pipeline.settings import Settings
from pipeline.times import to_ms


@dataclass(frozen=True, slots=True)
class Compared:
    """A name then and now."""

    expected: object
    found: object

    @property
    def equal(self) -> bool:
        return self.expected == self.found

    def json(self) -> dict[str, object]:
        return {"equal": self.equal, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Rebuilt:
    model: str
    version: str
    rows: Compared
    digest: Compared  # of the labelled rows
    history: Compared  # of their history features
    features: Compared  # their definition
    dead_letters: Compared  # by reason; more now: they landed after the training
    code: Compared
    bundle: Compared | None  # None: other rows, so nothing was trained
    differs: tuple[str, ...]  # files of the bundle, where the first one still lies on the disk
    out: str | None
    seconds: float

    @property
    def same_data(self) -> bool:
        return self.rows.equal and self.digest.equal and self.history.equal

    @property
    def fault(self) -> str | None:
        """What is not as it must be; another bundle by other code is none."""
        if not (self.rows.equal and self.digest.equal):
            return f"expected {self.rows.expected} rows of digest {self.digest.expected}, got {self.rows.found} of {self.digest.found}"
        if not self.history.equal:
            return f"equal rows, but other history features: defined by {self.features.expected} then, by {self.features.found} now"
        if self.bundle and not self.bundle.equal and self.code.equal:
            return f"equal rows and code, but another bundle: expected {self.bundle.expected}, got {self.bundle.found}"
        return None

    def json(self) -> dict[str, object]:
        compared = ("rows", "digest", "history", "features", "dead_letters", "code")
        return {
            "model": self.model,
            "version": self.version,
            "same_data": self.same_data,
            **{name: getattr(self, name).json() for name in compared},
            "bundle": self.bundle and self.bundle.json(),
            "differs": list(self.differs),
            "out": self.out,
            "seconds": round(self.seconds, 2),
        }

    def text(self) -> str:
        b = self.bundle
        lines = [
            f"{self.model} version {self.version}: {self.rows.found} rows read again, "
            f"{'the same' if self.same_data else 'NOT the same'} (digest {str(self.digest.found)[:16]})",
            f"code: {'the same' if self.code.equal else f'another: {_changed(self.code)}'}",
            "bundle: not trained, the rows differ"
            if b is None
            else f"bundle: {'the same digest' if b.equal else 'another digest'} {str(b.found)[:16]}"
            + (f"; differs in {', '.join(self.differs)}" if self.differs else ""),
        ]
        if not self.dead_letters.equal:
            lines.append(f"dead letters in the range: {self.dead_letters.expected} then, {self.dead_letters.found} now")
        return "\n".join([*lines, *([f"written to {self.out}"] if self.out else [])])


def trained_as(settings: Settings, model: str, version: str) -> Entry:
    """The ledger entry that tells how a version was trained; CheckFailed if there is none."""
    entries = Ledger(ledger.path_of(settings)).entries(model)
    found = next((e for e in entries if e.draft.action == "train" and e.draft.version == version), None)
    if found is None:
        raise CheckFailed(f"{model}: the ledger knows no trained version {version}; `driftline models list` shows them")
    return found


def rebuild(settings: Settings, contract: Contract, model: str, version: str, out: Path | None = None) -> Rebuilt:
    """CheckFailed where the rows cannot be read again; what differs is the report's matter."""
    began, entry = time.monotonic(), trained_as(settings, model, version)
    recipe = entry.draft.data.get("recipe")
    if not isinstance(recipe, Mapping) or entry.draft.artifact is None:
        raise CheckFailed(f"{model} version {version}: ledger entry {entry.seq} does not tell how it was trained")
    then = dataset.identity_of(entry.draft.data)
    if then.contract != contract.name:
        raise CheckFailed(
            f"{model} version {version}: expected the contract {then.contract} that it was trained under, got {contract.name}; "
            "name that version's file by `driftline --contract FILE`"
        )
    again = dataset.again(settings, contract, then)
    now = again.identity
    same = (now.rows, now.digest, now.history) == (then.rows, then.digest, then.history)
    bundle, differs = _train(settings, contract, entry, recipe, again, out) if same else (None, ())
    return Rebuilt(
        model,
        version,
        Compared(then.rows, now.rows),
        Compared(then.digest, now.digest),
        Compared(then.history, now.history),
        Compared(then.features, now.features),
        Compared(dict(then.dead_letters), dict(now.dead_letters)),
        Compared(recipe["code"], made_with()),
        bundle,
        differs,
        str(out) if out and bundle else None,
        time.monotonic() - began,
    )


def _train(
    settings: Settings,
    contract: Contract,
    entry: Entry,
    recipe: Mapping[str, object],
    data: dataset.Labelled,
    out: Path | None,
) -> tuple[Compared, tuple[str, ...]]:
    from batch import model as bundles
    from batch import train

    told = {k: v for k, v in entry.draft.data.items() if k != "recipe"}
    since = None if recipe["since"] is None else to_ms(str(recipe["since"]))
    built = train.build(contract, data.rows, since, int(str(recipe["seed"])), int(str(recipe.get("search", 0))))
    artifact = entry.draft.artifact or {}
    with tempfile.TemporaryDirectory(prefix="driftline-rebuild-") as scratch:
        target = out or Path(scratch) / "bundle"
        model, version = entry.draft.model, str(entry.draft.version)
        sha256 = train.save(target, contract, model, version, built, data.rows, told, recipe)
        first = bundles.locate(settings.home, str(artifact["uri"]))
        differs = tuple(f for f in bundles.FILES if (first / f).is_file() and _other(first / f, target / f))
    return Compared(artifact["sha256"], sha256), differs


def _other(first: Path, second: Path) -> bool:
    return first.read_bytes() != second.read_bytes()


def _changed(code: Compared) -> str:
    then, now = (c if isinstance(c, Mapping) else {} for c in (code.expected, code.found))
    return ", ".join(f"{k} {then.get(k)} -> {now.get(k)}" for k in {**then, **now} if then.get(k) != now.get(k))
