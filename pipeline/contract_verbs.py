"""EDGE. `driftline contract check|docs`: reads contracts, says what is wrong with them, writes their page."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import entry_points
from pathlib import Path

from pipeline import contract_docs, contract_file, decode
from pipeline.contract import Contract
from pipeline.errors import CheckFailed, UsageError
from pipeline.settings import Settings

PAGE = Path("docs/contract.md")
PLANS = "driftline.contract_plans"  # entry points: functions from a contract to lines, so that nothing is imported from here


class ContractVerb:
    summary = "Check data contracts, or write their documentation."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="check|docs")
        check = actions.add_parser("check", help="read contracts; exit 1 with file, line and key of every error")
        check.add_argument("names", nargs="*", metavar="NAME|FILE", help="contracts (default: --contract)")
        check.add_argument("--json", action="store_true", help="one JSON object a contract")
        docs = actions.add_parser("docs", help=f"write {PAGE}")
        docs.add_argument("names", nargs="*", metavar="NAME|FILE", help="contracts (default: all that are shipped)")
        docs.add_argument(
            "--out", default=str(PAGE), metavar="FILE", help="where to; - prints it (default: %(default)s)"
        )
        docs.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not up to date")

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        if args.action == "check":
            return _check(args.names or [settings.contract], args.json)
        return _docs(args.names or shipped_in_order(), args.out, args.check)


def shipped_in_order() -> list[str]:
    """The shipped contracts, the default one first."""
    return sorted(contract_file.shipped(), key=lambda name: (name != "sales", name))


def _check(names: list[str], as_json: bool) -> int:
    failed = 0
    for name in names:
        text, source = contract_file.read(name)
        try:
            contract = contract_file.parse(text, source)
            decode.compile(contract)
            errors = []
        except UsageError as error:
            contract, errors = None, str(error).splitlines()
        failed += bool(errors)
        if as_json:
            print(
                json.dumps(
                    {
                        "contract": contract.name if contract else None,
                        "source": source,
                        "ok": not errors,
                        "errors": errors,
                        "plan": _plan(contract) if contract else [],
                    }
                )
            )
        elif contract:
            print("\n".join([f"{source}: {_one_line(contract)}", *_plan(contract)]))
        else:
            print("\n".join(errors), file=sys.stderr)
    if failed:
        raise CheckFailed(f"{failed} of {len(names)} contracts have errors")
    return 0


def _one_line(contract: Contract) -> str:
    return (
        f"{contract.name} ok: {len(contract.fields)} fields, {len(contract.rules)} rules over several fields, "
        f"{len(contract.dataset_rules)} dataset rules, {len(contract.drift.features)} features watched"
    )


def _plan(contract: Contract) -> list[str]:
    """What it means with every default filled in, then what the rooms further on make of it."""
    further = (line for e in sorted(entry_points(group=PLANS)) for line in e.load()(contract))
    return [line.replace("`", "") for line in (*contract_docs.plans(contract), *further)]


def _docs(names: list[str], out: str, check: bool) -> int:
    page = contract_docs.page([contract_file.load(name) for name in names])
    path = Path(out)
    if out == "-":
        print(page, end="")
    elif check:
        if not path.is_file() or path.read_text(encoding="utf-8") != page:
            raise CheckFailed(
                f"{path}: expected the page of {', '.join(names)}, got another one; run `driftline contract docs`"
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        print(path)
    return 0
