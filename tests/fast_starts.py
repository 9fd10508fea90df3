"""EDGE. What lets the many processes of a run start fast: Java's classes shared by the brokers, Python's modules compiled once.

A broker of a test lives for seconds: loading its classes and compiling them well costs more than all that it does
(6.5 s of a core to start one, 2.2 s so). No test can tell the difference but by its time.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pipeline.broker import LIBS, Broker, java

CLASSES = LIBS.parent / "tests.jsa"  # the JVM's own archive; one that does not fit the jars is not used by it
MODULES = LIBS.parents[1] / "pycache"
OPTIONS = "JDK_JAVA_OPTIONS"  # what the `java` command reads before its own
QUICK = "-XX:TieredStopAtLevel=1 -Xlog:disable"  # quiet: an archive that does not fit is said on stdout


def share_classes() -> None:
    """Make the archive if there is none for these jars: what a broker has loaded that started and stopped."""
    jars = list(LIBS.glob("*.jar"))
    if not jars or OPTIONS in os.environ:
        return  # without jars every broker will say so
    newest = max(p.stat().st_mtime for p in (*jars, Path(java()).resolve()))
    if CLASSES.exists() and CLASSES.stat().st_mtime > newest:
        return
    with tempfile.TemporaryDirectory(dir=LIBS.parent) as scratch:
        made = Path(scratch) / "classes.jsa"
        os.environ[OPTIONS] = f"{QUICK} -XX:ArchiveClassesAtExit={made}"
        try:
            with Broker(Path(scratch) / "broker"):
                pass
        finally:
            del os.environ[OPTIONS]
        if made.exists():
            made.replace(CLASSES)


def apply() -> None:
    """For this process and all that it starts."""
    if CLASSES.exists():
        os.environ.setdefault(OPTIONS, f"{QUICK} -XX:SharedArchiveFile={CLASSES}")
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # or each process compiles all that it imports, for seconds
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(MODULES)
        sys.dont_write_bytecode = False
