"""EDGE. `driftline control`: answers drift episodes, requests by people, new rows and a schedule; nothing else.

The loop and its knobs; what a turn does is in `batch.controller`, what it decides in `batch.decisions`. A contract without a
label has no model to decide about: there only the reference that moves with time is made (`batch.rolling`).
"""

from __future__ import annotations

import argparse
import os
import threading

from batch.attribution_live import AttributionWatch
from batch.controller import Controller
from batch.decisions import Policy
from batch.heard import Heard
from batch.online_watch import OnlineWatch
from batch.rolling import Rolling
from monitoring.metrics import PrometheusMeter
from pipeline import contract_file
from pipeline.errors import Unreachable, UsageError
from pipeline.kafka import reach
from pipeline.service import Service
from pipeline.settings import Settings


class Control:
    summary = "Answer drift episodes and requests: retrain, gate, promote, accept; every decision goes to the ledger."

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        default = Policy()
        number = parser.add_argument
        number(
            "--first-rows",
            type=int,
            default=_env("FIRST_ROWS", default.first_rows),
            help="labelled rows before the first training (20,000)",
        )
        number(
            "--min-after",
            type=int,
            default=_env("MIN_AFTER", default.min_after),
            help="labelled rows since an onset before its decision (20,000)",
        )
        number(
            "--every-rows",
            type=int,
            default=_env("EVERY_ROWS", 0) or None,
            help="also retrain after so many new labelled rows (off)",
        )
        number(
            "--every",
            type=float,
            default=_env("EVERY", 0) or None,
            metavar="SECONDS",
            help="also retrain on this schedule, wall time (off)",
        )
        number(
            "--cooldown",
            type=float,
            default=_env("COOLDOWN", int(default.cooldown_s)),
            metavar="SECONDS",
            help="wall time between trainings (30)",
        )
        number("--budget", type=int, default=_env("BUDGET", default.budget), help="trainings a day of wall time (24)")
        number(
            "--after-rollback",
            type=float,
            default=_env("AFTER_ROLLBACK", int(default.after_rollback_s)),
            metavar="SECONDS",
            help="wall time without a training after a rollback, doubled by each of the last day (600)",
        )
        parser.add_argument(
            "--poll", type=float, default=1.0, metavar="SECONDS", help="pause between looks at the lake (1)"
        )

    @staticmethod
    def run(args: argparse.Namespace, settings: Settings) -> int:
        plan = Policy(
            args.first_rows,
            args.min_after,
            args.every_rows,
            args.every,
            args.cooldown,
            args.budget,
            args.after_rollback,
        )
        contract, meter = contract_file.load(settings.contract), PrometheusMeter()
        if contract.label is None and contract.drift.reference.kind == "training":
            raise UsageError(
                f"contract {contract.name}: expected a label to train on, or a reference of kind last-week or rolling; it "
                "states neither, so there is nothing to control; `driftline reference build` publishes a reference by hand"
            )
        with Service("control", settings, meter.exposition) as service:
            reach(settings, deadline_s=None, stopped=service.stopped)
            heard = Heard(contract)
            threads = heard.listen(settings, service.stopped)
            if contract.label is None:
                rolling, controller = Rolling(settings, contract), None
            else:
                attribution = AttributionWatch(settings, contract, meter)
                for name, watch in (("attribution", attribution), ("online", OnlineWatch(settings, contract))):
                    threads.append(
                        threading.Thread(target=watch.follow, args=(service.stopped,), name=name, daemon=True)
                    )
                    threads[-1].start()
                controller = Controller(settings, contract, plan, meter, service, attribution)
            while not service.stopped.wait(args.poll):
                service.beat()
                if dead := [t.name for t in threads if not t.is_alive()]:
                    raise Unreachable(f"control: no longer following {', '.join(dead)}")
                if heard.caught_up:
                    if controller:
                        controller.turn(heard.episodes(), heard.requests())
                    else:
                        rolling.turn(heard.episodes())
                    service.ready()
        return 0


def _env(name: str, default: int) -> int:
    """`DRIFTLINE_<NAME>`, so that the stack can set what the command line of a process table cannot."""
    text = os.environ.get(f"DRIFTLINE_{name}", str(default))
    if text.isdigit():
        return int(text)
    raise UsageError(f"DRIFTLINE_{name}={text}: expected a whole number >= 0; the default is {default}")
