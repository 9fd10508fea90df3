"""What a disk can hold after the power went: the recorded writes of some commits, replayed up to every prefix.

The method is ALICE's (Pillai et al., OSDI 2014): record the order of write, fsync, link, rename and unlink; for every
prefix build the directory as a disk might have it; open it and ask. Assumed of the file system is the least: bytes of a
file that was not fsynced since are there, torn or gone; a name in a directory that was not fsynced since is there or
gone, each by itself, except that a rename is one step. fsync of a file says nothing about its name.

Limits: writes append (no process here overwrites); sectors that die later, a disk that lies about fsync, and an fsync
that failed once and is asked again are not modelled; of the subsets of unsynced names all single ones, none, all and a
seeded sample are tried, not every one.
"""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
CALLS = "mkdir,mkdirat,open,openat,creat,write,pwrite64,writev,fsync,fdatasync,link,linkat,unlink,unlinkat,rename,renameat,renameat2,rmdir,ftruncate,stat,newfstatat"  # fmt: skip
DONE = "/driftline-said-done-"  # a name that is looked up to leave a mark in the recording
_STRING = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\) += (-?\d+)")

Tree = dict[str, bytes]  # path below the root -> bytes; directories end in /


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded call: what it did, to which path (and from which), with which bytes."""

    what: str  # mkdir create write fsync link unlink rename done
    path: str
    source: str = ""
    data: bytes = b""


def said_done(number: int) -> None:
    """Leave the mark `number` in the recording: what was done up to here was reported done."""
    Path(f"{DONE}{number}").exists()


def record(command: Sequence[str], root: Path, scratch: Path) -> list[Step]:
    """Run the command under strace; what it did below `root`, in order."""
    traced = ["strace", "-ff", "-ttt", "-y", "-s", "10000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o"]
    done = subprocess.run([*traced, str(scratch / "calls"), *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for file in scratch.glob("calls.*") for line in file.read_text(errors="replace").splitlines()]
    marked = [line for line in lines if str(root) in line or DONE in line]
    return [s for line in sorted(marked) for s in _steps(line, root)]


def _steps(line: str, root: Path) -> Iterator[Step]:
    match = _LINE.match(line)
    if match is None:
        return
    _, name, rest, result = match.groups()
    texts = [ast.literal_eval(f'b"{t}"') for t in re.findall(_STRING, rest)]
    fd = re.match(r"\d+<([^>]*)>", rest)
    if name in ("stat", "newfstatat"):
        if texts and texts[0].startswith(DONE.encode()):
            yield Step("done", texts[0].decode().removeprefix(DONE))
        return
    if int(result) < 0:
        return
    below = [str(PurePosixPath(t.decode()).relative_to(root)) for t in texts if t.startswith(str(root).encode())]
    if name in ("write", "pwrite64") and fd:
        yield Step("write", _below(fd[1], root), data=texts[0][: int(result)])
    elif name in ("fsync", "fdatasync") and fd:
        yield Step("fsync", _below(fd[1], root))
    elif name in ("open", "openat", "creat"):
        if "O_CREAT" in rest or name == "creat":
            yield Step("create", below[0])
    elif name.startswith("mkdir"):
        yield Step("mkdir", below[0])
    elif name.startswith("link"):
        yield Step("link", below[1], below[0])
    elif name.startswith("rename"):
        yield Step("rename", below[1], below[0])
    elif name in ("unlink", "unlinkat", "rmdir"):
        if below:  # rmtree goes by descriptors; what it removes nobody reads
            yield Step("unlink", below[0])
    else:
        raise AssertionError(f"a call that the model does not know: {line[:200]}")


def _below(path: str, root: Path) -> str:
    return str(PurePosixPath(path.removesuffix("(deleted)")).relative_to(root))


@dataclass(slots=True)
class _File:
    data: bytes = b""
    synced: int = 0
    directory: bool = False


@dataclass(slots=True)
class _Change:
    """Names of one directory that change in one step and are not on disk yet."""

    added: dict[str, _File]
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class Disk:
    """What the process sees, what is surely on disk, and what may be."""

    seen: dict[str, _File] = field(default_factory=dict)
    durable: dict[str, _File] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def apply(self, step: Step) -> None:
        match step.what:
            case "mkdir":
                self._change({step.path: _File(directory=True)})
            case "create":
                if step.path not in self.seen:
                    self._change({step.path: _File()})
            case "write":
                self.seen[step.path].data += step.data
            case "link":
                self._change({step.path: self.seen[step.source]})
            case "rename":
                self._change({step.path: self.seen[step.source]}, (step.source,))
            case "unlink":
                self._change({}, (step.path,))
            case "fsync":
                self._sync(step.path)

    def _change(self, added: dict[str, _File], removed: tuple[str, ...] = ()) -> None:
        self.pending.append(_Change(added, removed))
        _make(self.seen, self.pending[-1])

    def _sync(self, path: str) -> None:
        if path != "." and not self.seen[path].directory:
            self.seen[path].synced = len(self.seen[path].data)
            return
        kept = []
        for change in self.pending:
            inside = all(_parent(name) == path for name in (*change.added, *change.removed))
            if inside:
                _make(self.durable, change)
            elif path in map(_parent, (*change.added, *change.removed)):
                _make(self.durable, change)  # a rename between directories: one step, on disk with either
            else:
                kept.append(change)
        self.pending = kept

    def trees(self, rng: random.Random, samples: int = 3) -> Iterator[Tree]:
        """The directories that a disk may hold now."""
        n = len(self.pending)
        subsets = [set(), set(range(n)), *({i} for i in range(n)), *(set(range(n)) - {i} for i in range(n))]
        subsets += [{i for i in range(n) if rng.random() < 0.5} for _ in range(samples)]
        for kept in subsets:
            for torn in ("lost", "half", "zeros", "kept"):
                yield self._tree(kept, torn)

    def _tree(self, kept: set[int], torn: str) -> Tree:
        names = dict(self.durable)
        for i, change in enumerate(self.pending):
            if i in kept:
                _make(names, change)
        return {
            path + ("/" if file.directory else ""): b"" if file.directory else _content(file, torn)
            for path, file in names.items()
            if all(str(p) == "." or str(p) in names for p in PurePosixPath(path).parents)
        }


def _make(names: dict[str, _File], change: _Change) -> None:
    for name in change.removed:
        names.pop(name, None)
    names.update(change.added)


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent)


def _content(file: _File, torn: str) -> bytes:
    unsynced = file.data[file.synced :]
    tail = {
        "lost": b"",
        "half": unsynced[: len(unsynced) // 2],
        "zeros": bytes(len(unsynced)),
        "kept": unsynced,
    }[torn]
    return file.data[: file.synced] + tail


def disks(steps: Sequence[Step], seed: int) -> Iterator[tuple[int, int, Tree]]:
    """(steps done, last mark said, directory) for every prefix; a directory seen under the same mark comes once."""
    disk, rng, said, met = Disk(), random.Random(seed), 0, set[tuple[int, int]]()
    for n in range(len(steps) + 1):
        for tree in disk.trees(rng):
            key = said, hash(frozenset(tree.items()))
            if key not in met:
                met.add(key)
                yield n, said, tree
        if n < len(steps):
            if steps[n].what == "done":
                said = int(steps[n].path)
            else:
                disk.apply(steps[n])


def build(tree: Mapping[str, bytes], root: Path) -> None:
    """The directory, for real."""
    for path in sorted(tree):
        at = root / path
        if path.endswith("/"):
            at.mkdir(parents=True, exist_ok=True)
        else:
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(tree[path])


def survey(steps: Sequence[Step], seed: int, root: Path, every: int = 1) -> tuple[int, list[str]]:
    """(directories opened, what was wrong with which) over every `every`-th directory that a disk may hold."""
    wrong: list[str] = []
    tried = 0
    for number, (n, said, tree) in enumerate(disks(steps, seed)):
        if (number + seed) % every:
            continue
        at = root / str(number)
        build(tree, at)
        try:
            check(at, said, go_on=tried % 10 == 0)
        except Exception as error:  # whatever a reader or the compactor meets there
            wrong.append(f"after {n} calls, the last {steps[max(0, n - 1)]!r:.160}: {error!r:.300}")
        shutil.rmtree(at)
        tried += 1
    return tried, wrong


def check(root: Path, said: int, go_on: bool) -> None:
    """Every version that opens is a prefix, what was said to be done is there, a compactor can go on; else AssertionError or what the library says."""
    from batch import table as lake
    from pipeline.settings import from_environment
    from tests.lake.lake_samples import commit, new_table, pending

    settings = from_environment({"DRIFTLINE_HOME": str(root), "DRIFTLINE_LAKE": str(root)})

    def rows(version: int | None = None) -> list[int]:
        return sorted(lake.scan(settings, "shop", version=version).collect()["raw_offset"].to_list())

    if said == 0 and not lake.exists(settings, "shop"):
        assert new_table(root / "shop" / "events").version == 0  # the remains of a table never made are in nobody's way
        return
    table = lake.Table(root / "shop" / "events")
    end = table.position("shop/0") or 0
    assert end >= 10 * max(0, said - 1), f"done up to {10 * (said - 1)}, the table ends at {end}"
    assert rows() == list(range(end)), "rows are not those below the position"
    for version in range(table.version + 1):
        before = rows(version)
        assert before == list(range(len(before))) and len(before) <= end, f"version {version} is no prefix"
    if go_on:
        commit(table, [pending(end, end + 7)])
        assert rows() == list(range(end + 7)), "the next commit does not follow on"


def workload(home: Path) -> None:
    """What is recorded: a table made, commits into old and new dates, a merge, a checkpoint, one commit more; each reported done."""
    from tests.lake.lake_samples import DAY, commit, new_table, pending

    table = new_table(home / "shop" / "events")
    said_done(1)
    for k in range(COMMITS):
        commit(table, [pending(10 * k, 10 * k + 10, step=DAY // 12)])
        said_done(2 + k)
        if k == 2:
            table.merge(at_most=1)
            table.checkpoint()


COMMITS = 4


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    workload(Path(sys.argv[1]))
