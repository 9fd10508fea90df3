"""EDGE. A table's log on disk, so that what was reported done survives a power loss and what was not is not half there.

A Delta log entry is a file of JSON lines whose name is the version. The libraries write it, link it and fsync nothing:
after a power loss the name can be there without the bytes, and then no reader opens the table any more. Here an entry
is whole and on disk before it gets its name, and the name is on disk before anybody hears of it. Knows no rows.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from deltalake import DeltaTable

LOG = "_delta_log"
SCRATCH = "_checkpoint-"  # readers and vacuum pass over names that begin with _
Action = Mapping[str, Mapping[str, object]]


def enter(table: Path, version: int, actions: Iterable[Action]) -> None:
    """Make the actions version `version` of the table; FileExistsError if there is one already.

    An OSError from anything else than the exclusive link leaves open whether the entry is there: look into the log.
    """
    # 1. entry under a name that no reader knows, fsynced  2. its name, by exclusive link  3. directory fsynced.
    # A crash before 2 leaves a stray file; after 2 the commit stands; after 3 it survives power loss.
    log = table / LOG
    temporary = log / f"{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write("\n".join(json.dumps(a, separators=(",", ":")) for a in actions))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, log / f"{version:020}.json")
    finally:
        temporary.unlink(missing_ok=True)
        sync(log)


def checkpoint(table: Path) -> None:
    """Write the state of the newest version as one file, so that opening need not read the whole log.

    The library writes it in a copy of the log made of links; it gets its place once it is on disk, the pointer to it after that.
    """
    log, scratch = table / LOG, table / f"{SCRATCH}{uuid.uuid4().hex}"
    try:
        (scratch / LOG).mkdir(parents=True)
        for file in log.iterdir():
            if file.suffix != ".tmp":
                os.link(file, scratch / LOG / file.name)
        DeltaTable(str(scratch)).create_checkpoint()
        made = sorted(set(os.listdir(scratch / LOG)) - set(os.listdir(log)) - {"_last_checkpoint"})
        for name in (*made, "_last_checkpoint"):
            sync(scratch / LOG / name)
            os.replace(scratch / LOG / name, log / name)
            sync(log)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sync(path: Path) -> None:
    """fsync of a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
