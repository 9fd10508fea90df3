"""The corpus's files and lines through the reader of `driftline produce --replay`, each file in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench._hops import ROOT
from tests.corpus.cases import File, Record, good

LIMIT_S = 60.0
READ = """
import json, resource, sys, time
from collections import Counter
from pathlib import Path
from pipeline import contract_file, decode
from pipeline.contract import Reject
from pipeline.errors import UsageError
from producers import replay
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
contract = contract_file.load("sales")
decoder = decode.compile(contract)
for line in sys.stdin:
    began = time.perf_counter()
    try:
        verdicts = [decoder.decode(v, int(sys.argv[1])) for b in replay.stream(contract, Path(line.rstrip(chr(10)))) for v in b.values]
        found = dict(Counter(v.code if isinstance(v, Reject) else "valid" for v in verdicts))
    except UsageError:
        found = None
    print(json.dumps([found, time.perf_counter() - began]), flush=True)
"""


def run(files: list[File], records: list[Record], now_ms: int) -> tuple[list[str], int, float]:
    """(what came out otherwise than stated, processes that ended, the longest time of one file)."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as two:
        wanted = [(f"{f.number} {f.name}", f.path, f.outcomes) for f in files]
        groups = [[w] for w in wanted] + [_lines(Path(folder), records)]
        results = list(two.map(lambda group: _read(group, now_ms), groups))
    wrong = [w for found, _, _ in results for w in found]
    return wrong, sum(died for _, died, _ in results), max(slowest for _, _, slowest in results)


def _lines(folder: Path, records: list[Record]) -> list[tuple[str, Path, dict[str, int] | None]]:
    wanted = []
    for i, r in enumerate(r for r in records if r.jsonl is not None):
        path = folder / f"{i}.jsonl"
        path.write_bytes(good() + b"\n" + (r.value or b"") + b"\n" + good() + b"\n")
        wanted.append((f"{r.number} {r.name} as a line", path, dict(Counter(["valid", *(r.jsonl or ()), "valid"]))))
    return wanted


def _read(group: list[tuple[str, Path, dict[str, int] | None]], now_ms: int) -> tuple[list[str], int, float]:
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(now_ms)],
            input="".join(f"{path}\n" for _, path, _ in group),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return [f"{group[0][0]}: not read within {LIMIT_S:.0f} s"], 0, time.monotonic() - began
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        f"{name}: expected {expected}, got {found}"
        for (name, _, expected), (found, _) in zip(group, answers, strict=False)
        if found != expected
    ]
    if done.returncode != 0 or len(answers) != len(group):
        wrong.append(f"{group[len(answers) - 1][0]}: the reader ended with {done.returncode}: {done.stderr[-300:]}")
    return wrong, int(done.returncode != 0), max((s for _, s in answers), default=0.0)
