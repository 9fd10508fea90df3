"""PURE. The supervisor's configuration, made from the process table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pipeline.processes import Process

# A start that fails is tried again after 1, 2, 3 ... s; after 20 tries (some 200 s) supervisor gives the process up
# as FATAL and the watchdog begins anew, so the wait never grows beyond that and a process is never given up for good.
PROCESS = "DRIFTLINE_PROCESS"  # which line of the table a process, and what it forked, belongs to
START_RETRIES = 20
START_S = 3  # a process that lives so long counts as started; one that dies later is restarted at once
LOG_BYTES, LOG_BACKUPS = "20MB", 2


def configuration(processes: Sequence[Process], socket: str, folder: str, logs: str, python: str = "python") -> str:
    """supervisord.conf: nothing starts by itself (the order is `up`'s), whatever dies is started again."""
    return "\n".join([_daemon(socket, folder), *(_program(p, logs, python) for p in processes)])


def _daemon(socket: str, folder: str) -> str:
    return f"""[unix_http_server]
file={_escaped(socket)}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
nodaemon=true
silent=true
logfile={_escaped(folder)}/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile={_escaped(folder)}/supervisord.pid
childlogdir={_escaped(folder)}
minfds=4096
"""


def _program(process: Process, logs: str, python: str) -> str:
    return f"""[program:{process.name}]
command={_escaped(command_line(process, python))}
autostart=false
autorestart=true
startsecs={START_S}
startretries={START_RETRIES}
exitcodes=0
stopsignal=TERM
stopwaitsecs={process.stop_s}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={_escaped(logs)}/{process.name}.log
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_BACKUPS}
"""


def command_line(process: Process, python: str = "python") -> str:
    """`env NAME=value command`: supervisor's own `environment=` has no way to write a quote."""
    variables = [f"{name}={value}" for name, value in {**process.env, PROCESS: process.name}.items()]
    alone = [python, "-m", "pipeline.alone"] if process.forks else []
    return shlex.join(["env", *variables, *alone, *process.command])


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
