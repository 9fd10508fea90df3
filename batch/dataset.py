"""EDGE. Labelled rows from the lake, with an identity: which table versions, offsets, rows and dead letters they are.

Reads the lake through `batch.table` only. Data under a critical quality verdict is refused, with the rule named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime

import polars as pl

from batch import labels, table
from batch.digest import page_digest
from batch.labels import COORDINATE, LABEL
from pipeline.contract import APPEND_TIME, RAW_OFFSET, RAW_PARTITION, Contract, MatchLabel, OutcomeLabel
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings
from pipeline.times import to_ms, to_text

Read = Mapping[str, Mapping[str, tuple[int, int]]]  # by table and partition: offsets [start, end)


@dataclass(frozen=True, slots=True)
class DataIdentity:
    """What names a training set. `digest` depends on the labelled rows alone, not on files, commits or their order."""

    table_version: int
    outcomes_version: int | None
    ranges: Mapping[str, tuple[int, int]]  # raw offsets [first, last + 1) of the rows, by partition
    start: str  # event time of the first row
    end: str  # and of the last
    rows: int
    positives: int
    unlabelled: int  # mature events whose label never came, or matches that found no row
    digest: str
    dead_letters: Mapping[str, int]  # left out within the ranges, by reason
    status: str  # quality status
    contract: str
    history: str = ""  # SHA-256 over the rows' history features; "" where the contract declares none
    features: str = ""  # the feature set, its version, the definition of its history: sales@2+0a1b2c3d
    asked: tuple[str | None, str | None] = (None, None)  # event time [from, to) that was asked for; None = open
    read: Read = field(default_factory=dict)  # offsets that each table held

    def json(self) -> dict[str, object]:
        held = {name: {p: list(r) for p, r in ranges.items()} for name, ranges in self.read.items()}
        ranges = {p: list(r) for p, r in self.ranges.items()}
        return {**asdict(self), "ranges": ranges, "asked": list(self.asked), "read": held}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows in event-time order: the contract's columns, coordinate, append time, LABEL, history features."""

    rows: pl.DataFrame
    identity: DataIdentity


def labelled(settings: Settings, contract: Contract, start: int | None = None, end: int | None = None) -> Labelled:
    """Every mature labelled row with event time in [start, end) (ms; None = open).

    CheckFailed names the rule if a critical quality verdict lies in that range, or says that there is no row.
    """
    newest, outcomes_version = _versions(settings, contract)
    return _labelled(settings, contract, newest, outcomes_version, start, end)


def again(settings: Settings, contract: Contract, identity: DataIdentity) -> Labelled:
    """The rows that an identity names, read from the lake as it is now; their own identity tells whether they are the same.

    A version's rows are, in every later version, those below the offsets that it held: merges and vacuum change nothing.
    CheckFailed where the lake does not reach that far, or where an identity was kept without these offsets.
    """
    newest, outcomes_version = _versions(settings, contract)
    if not identity.read:
        raise CheckFailed(f"{contract.id}: expected the offsets that the lake held then, the training kept none")
    for name, ranges in identity.read.items():
        held = table.positions(settings, contract.id, name)
        for partition, (_, end) in ranges.items():
            reached = held.get(int(partition), (0, 0))[1]
            if reached < int(end):
                raise CheckFailed(
                    f"{contract.id}: expected {name} up to offset {end} of partition {partition}, the lake holds {reached}; "
                    "the rows cannot be read again from it"
                )
    start, end = (None if t is None else to_ms(t) for t in identity.asked)
    return _labelled(settings, contract, newest, outcomes_version, start, end, identity)


def identity_of(kept: Mapping[str, object]) -> DataIdentity:
    """From a ledger entry's `data`, which may hold more."""
    return DataIdentity(**{f.name: kept[f.name] for f in fields(DataIdentity) if f.name in kept})  # type: ignore[arg-type]


def _labelled(
    settings: Settings,
    contract: Contract,
    newest: table.Version,
    outcomes_version: int | None,
    start: int | None,
    end: int | None,
    same: DataIdentity | None = None,
) -> Labelled:
    """`same`: only what its tables held; its versions and status are kept, and no verdict of today refuses it."""
    frame, unmatched = _query(settings, contract, newest.version, outcomes_version, start, end, same and same.read)
    rows = frame.collect().sort(contract.time.field, *COORDINATE)
    unlabelled = int(rows[LABEL].is_null().sum()) + (
        0 if unmatched is None else unmatched.select(pl.len()).collect().item()
    )
    rows = rows.filter(pl.col(LABEL).is_not_null())
    if rows.is_empty():
        raise CheckFailed(
            f"{contract.id}: no labelled row in the asked range of the lake; labels come {labels.delay(contract)} after the event"
        )
    span = _span(rows, contract)
    status = same.status if same else _check_quality(newest.metadata, span)
    ranges = _ranges(rows)
    whole = with_history(settings, contract, rows, newest.version, outcomes_version, same and same.read)
    past = [c for c in whole.columns if c not in rows.columns]
    identity = DataIdentity(
        table_version=same.table_version if same else newest.version,
        outcomes_version=same.outcomes_version if same else outcomes_version,
        ranges={str(p): r for p, r in ranges.items()},
        start=to_text(span[0]),
        end=to_text(span[1]),
        rows=rows.height,
        positives=int(rows[LABEL].sum()),
        unlabelled=unlabelled,
        digest=content_digest(rows),
        dead_letters=_dead_letters(settings, contract, ranges),
        status=status,
        contract=contract.name,
        history=content_digest(whole.select(*COORDINATE, *past)) if past else "",
        features=_features(contract),
        asked=same.asked
        if same
        else (None if start is None else to_text(start), None if end is None else to_text(end)),
        read=same.read if same else _read(settings, contract, newest.version, outcomes_version),
    )
    return Labelled(whole, identity)


def count_labelled(
    settings: Settings,
    contract: Contract,
    start: int | None = None,
    end: int | None = None,
    arrived_since: int | None = None,
) -> int:
    """How many rows `labelled` would return (of those appended since, if asked); 0 while the lake is not there."""
    try:
        newest, outcomes_version = _versions(settings, contract)
    except table.LakeMissing:
        return 0
    frame, _ = _query(settings, contract, newest.version, outcomes_version, start, end)
    if arrived_since is not None:
        frame = frame.filter(pl.col(APPEND_TIME) >= _time(arrived_since))
    return int(frame.filter(pl.col(LABEL).is_not_null()).select(pl.len()).collect().item())


def newest_event_time(settings: Settings, contract: Contract) -> int | None:
    """Newest event time in the lake, ms; None while there is none."""
    found = event_times(settings, contract)
    return found and found[1]


def event_times(settings: Settings, contract: Contract) -> tuple[int, int] | None:
    """(oldest, newest) event time in the lake, ms; None while there is no row."""
    if not table.exists(settings, contract.id):
        return None
    clock = pl.col(contract.time.field)
    ends = table.scan(settings, contract.id).select(clock.min().alias("low"), clock.max().alias("high")).collect()
    low, high = ends.row(0)
    return None if high is None else (_ms(low), _ms(high))


def events_between(
    settings: Settings, contract: Contract, start: int, end: int, version: int | None = None
) -> pl.DataFrame:
    """Every valid row of the lake with event time in [start, end), labelled or not: what a reference is made of."""
    clock = pl.col(contract.time.field)
    rows = table.scan(settings, contract.id, version=version).filter((clock >= _time(start)) & (clock < _time(end)))
    return rows.collect().sort(contract.time.field, *COORDINATE)


def with_history(
    settings: Settings,
    contract: Contract,
    rows: pl.DataFrame,
    version: int | None = None,
    outcomes_version: int | None = None,
    read: Read | None = None,
) -> pl.DataFrame:
    """The rows with the contract's history features, each as it was known when the row arrived; from the offsets in `read` only.

    What arrives later changes nothing; what had arrived and landed later than a version does, hence `read`.
    """
    from stream_processors.live import feature_plan, feature_replay

    history = feature_plan.compiled(contract)
    if history is None:
        return rows
    clock, arrival = pl.col(contract.time.field), pl.col(APPEND_TIME)
    first = rows[contract.time.field].min()
    since, heard_since = feature_replay.reads_since(history, contract, 0 if first is None else _ms(first))  # type: ignore[arg-type]
    before = arrival < rows[APPEND_TIME].max()
    events = _held(table.scan(settings, contract.id, version=version), table.EVENTS, COORDINATE, read)
    events = events.filter(before & (clock >= _time(since)))
    outcomes = None
    if isinstance(contract.label, OutcomeLabel) and table.exists(settings, contract.id, table.OUTCOMES):
        heard = table.scan(settings, contract.id, table.OUTCOMES, outcomes_version)
        heard = _held(heard, table.OUTCOMES, labels.OUTCOME_COORDINATE, read)
        heard = heard.filter(before & (clock >= _time(heard_since)))
        outcomes = heard.sort(APPEND_TIME, "topic_partition", "topic_offset").collect()
    read = events.select(feature_plan.event_columns(history, contract)).collect()
    return rows.with_columns(feature_replay.values(history, contract, rows, read, outcomes))


def rows_between(settings: Settings, contract: Contract, start: int, end: int) -> pl.DataFrame:
    """Every valid row with event time in [start, end), with LABEL: null where no mature label is there."""
    rows = events_between(settings, contract, start, end)
    newest, outcomes_version = _versions(settings, contract)
    frame, _ = _query(settings, contract, newest.version, outcomes_version, start, end)
    rows = rows.join(frame.select(*COORDINATE, LABEL).collect(), on=COORDINATE, how="left", maintain_order="left")
    return with_history(settings, contract, rows)


def content_digest(rows: pl.DataFrame) -> str:
    """SHA-256 over the rows in coordinate order, in canonical form; equal for equal rows in any order.

    >>> a = pl.DataFrame({"raw_partition": [0, 0], "raw_offset": [1, 2], "label": [True, False]})
    >>> content_digest(a) == content_digest(a.reverse())
    True
    """
    names = sorted(n for n in rows.columns if n != table.EVENT_DATE)
    return hashlib.sha256(page_digest(rows.select(names).sort(COORDINATE))).hexdigest()


def _versions(settings: Settings, contract: Contract) -> tuple[table.Version, int | None]:
    if contract.label is None:
        raise UsageError(f"contract {contract.name}: expected a label to train on, it states none")
    newest = table.versions(settings, contract.id, limit=1)[0]
    if isinstance(contract.label, MatchLabel):
        return newest, None
    return newest, table.versions(settings, contract.id, table.OUTCOMES, limit=1)[0].version


def _query(
    settings: Settings,
    contract: Contract,
    version: int,
    outcomes_version: int | None,
    start: int | None,
    end: int | None,
    read: Read | None = None,
) -> tuple[pl.LazyFrame, pl.LazyFrame | None]:
    """Mature events of the range with LABEL, and the matches that found no row; of the offsets in `read` only."""
    clock = contract.time.field
    names = [f.name for f in contract.fields] + [RAW_PARTITION, RAW_OFFSET, APPEND_TIME]
    events = _held(table.scan(settings, contract.id, version=version).select(names), table.EVENTS, COORDINATE, read)
    newest = events.select(pl.col(clock).max()).collect().item()
    if isinstance(contract.label, OutcomeLabel):
        outcomes = table.scan(settings, contract.id, table.OUTCOMES, outcomes_version)
        outcomes = _held(outcomes, table.OUTCOMES, labels.OUTCOME_COORDINATE, read)
        known = outcomes.select(pl.col(clock).max()).collect().item()
        if newest is None or known is None:
            return events.limit(0).with_columns(pl.lit(None, pl.Boolean).alias(LABEL)), None
        chosen = _within(events, clock, start, end, labels.mature_until(newest, known, contract))
        # A label follows its event within the delay, or is missing: older outcomes need not be read.
        recent = outcomes if start is None else outcomes.filter(pl.col(clock) >= _time(start))
        return labels.by_outcome(chosen, recent, contract.label), None
    assert isinstance(contract.label, MatchLabel)
    labelled_rows, unmatched = labels.by_match(events, contract.label, clock)
    if newest is None:
        return labelled_rows.limit(0), None
    until = labels.mature_until(newest, None, contract)
    return _within(labelled_rows, clock, start, end, until), _within(unmatched, clock, start, end, newest)


def _read(settings: Settings, contract: Contract, version: int, outcomes_version: int | None) -> Read:
    versions = {table.EVENTS: version, table.OUTCOMES: outcomes_version}
    held = {n: table.positions(settings, contract.id, n, v) for n, v in versions.items() if v is not None}
    return {name: {str(p): r for p, r in ranges.items()} for name, ranges in held.items()}


def _held(frame: pl.LazyFrame, name: str, by: Sequence[str], read: Read | None) -> pl.LazyFrame:
    if read is None:
        return frame
    return table.rows_in(frame, {int(p): (int(low), int(high)) for p, (low, high) in read[name].items()}, by)


def _features(contract: Contract) -> str:
    from stream_processors.live import model_features

    found = model_features.features_for(contract)
    return f"{found.name}@{found.version}" + (f"+{found.definition}" if found.definition else "")


def _within(frame: pl.LazyFrame, clock: str, start: int | None, end: int | None, mature: datetime) -> pl.LazyFrame:
    frame = frame.filter(pl.col(clock) <= mature)
    frame = frame if start is None else frame.filter(pl.col(clock) >= _time(start))
    return frame if end is None else frame.filter(pl.col(clock) < _time(end))


def _check_quality(metadata: Mapping[str, str], span: tuple[int, int]) -> str:
    """The status of the data in `span`; CheckFailed if a critical rule failed there."""
    critical = [v for v in table.violations(metadata) if v.get("severity") == "critical"]
    here = [v for v in critical if _touches(v.get("window_start"), v.get("window_end"), span)]
    worst = metadata.get("worst", "unknown")
    if here or (worst == "critical" and not critical):
        rules = ", ".join(sorted({str(v["rule"]) for v in here})) or "a rule that is no longer listed"
        where = f" (window {here[-1].get('window_start')})" if here else ""
        raise CheckFailed(f"training halted: critical dataset rule {rules} failed{where}; `driftline quality` shows it")
    return "degraded" if worst == "critical" else worst


def _touches(window_start: str | None, window_end: str | None, span: tuple[int, int]) -> bool:
    """A violation of the whole run ("run") touches everything."""
    if not window_start or window_start == "run":
        return True
    begin = to_ms(window_start)
    return begin <= span[1] and (to_ms(window_end) if window_end and window_end != "run" else begin + 1) > span[0]


def _span(rows: pl.DataFrame, contract: Contract) -> tuple[int, int]:
    clock = rows[contract.time.field]
    return _ms(clock.min()), _ms(clock.max())  # type: ignore[arg-type]


def _ranges(rows: pl.DataFrame) -> dict[int, tuple[int, int]]:
    found = (
        rows.group_by(RAW_PARTITION)
        .agg(low=pl.col(RAW_OFFSET).min(), high=pl.col(RAW_OFFSET).max() + 1)
        .sort(RAW_PARTITION)
    )
    return {int(p): (int(low), int(high)) for p, low, high in found.iter_rows()}


def _dead_letters(settings: Settings, contract: Contract, ranges: Mapping[int, tuple[int, int]]) -> dict[str, int]:
    if not table.exists(settings, contract.id, table.DEAD_LETTERS):
        return {}
    letters = table.rows_in(table.scan(settings, contract.id, table.DEAD_LETTERS), ranges)
    return dict(letters.group_by("reason").agg(pl.len()).sort("reason").collect().iter_rows())


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
