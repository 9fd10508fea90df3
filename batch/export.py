"""EDGE. `driftline export`: a version of a table as plain Parquet, with a manifest that names and proves it."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from batch import table as lake
from pipeline import contract_file
from pipeline.errors import UsageError
from pipeline.settings import Settings

MANIFEST = "manifest.json"


class Export:
    summary = "Copy a version of a lake table out as plain Parquet with a manifest."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a directory that is new or empty")
        parser.add_argument("--version", type=int, help="table version (default: the newest)")
        parser.add_argument("--table", choices=(lake.EVENTS, lake.DEAD_LETTERS, lake.OUTCOMES), default=lake.EVENTS)
        parser.add_argument("--json", action="store_true", help="print the manifest")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        contract = contract_file.load(settings.contract)
        manifest = export(settings, contract.id, args.out, table=args.table, version=args.version)
        print(
            json.dumps(manifest)
            if args.json
            else f"{args.out}: version {manifest['version']}, {manifest['rows']} rows, {len(manifest['files'])} files"
        )
        return 0


def export(
    settings: Settings, dataset: str, out: Path, *, table: str = lake.EVENTS, version: int | None = None
) -> dict:
    """Files by `event_date=.../`, then the manifest: a directory without one is no whole export."""
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: expected a new or empty directory")
    named = lake.versions(settings, dataset, table, limit=1)[0].version if version is None else version
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for relative, source in lake.live_files(settings, dataset, table, named):
        target = out / relative
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
        files.append(
            {
                "path": relative,
                "bytes": target.stat().st_size,
                "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            }
        )
    manifest = {
        "dataset": dataset,
        "table": table,
        "version": named,
        "rows": lake.count(settings, dataset, table, named),
        "files": sorted(files, key=lambda f: str(f["path"])),
    }
    if table == lake.EVENTS:
        identity = asdict(lake.identity(settings, dataset, version=named))
        manifest |= {k: identity[k] for k in ("contract", "ranges", "digest", "status")}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest
