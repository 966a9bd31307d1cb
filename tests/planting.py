"""Runs tests on a copy of the package in which a mistake was planted, in a process of its own.

Importing Keras, JAX and pytest takes longer than most of these tests. So a fork server imports
them once, and every run is forked from it. The server imports nothing in which a mistake is
planted, has one thread, and computes nothing: XLA's threads would not come along.
"""

import multiprocessing
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
SECONDS = 300  # a run takes a few
FOUND = {"AssertionError", "Failed"}  # pytest raises the second where nothing else was raised

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["keras", "jax", "scipy.stats", "dp_accounting", "pytest", "hypothesis"]
)


@dataclass
class Outcome:
    """What pytest found, as seen from within its process; also the plugin that sees it."""

    code: int | None = None  # None if the process ended before pytest did
    package: str = ""  # the file that `keras_dp` was imported from
    failures: list[tuple[str, str]] = field(default_factory=list)  # test, name of the exception
    errors: list[str] = field(default_factory=list)  # what failed outside of a test's own body
    output: str = ""

    def pytest_runtest_makereport(self, item, call):
        if call.excinfo is None:
            return
        if call.when == "call":
            self.failures.append((item.nodeid, call.excinfo.typename))
        else:
            self.errors.append(f"{call.when} of {item.nodeid}: {call.excinfo.exconly()}")

    def pytest_collectreport(self, report):
        if report.failed:
            self.errors.append(f"collection of {report.nodeid}: {report.longreprtext}")

    def caught(self, folder):
        """Whether a test of the package in this folder failed by what it asserts."""
        return (
            self.code == 1
            and self.package == str(folder / "keras_dp" / "__init__.py")
            and not self.errors
            and [kind in FOUND for _, kind in self.failures] == [True]
        )


def plant(folder, file, old, new):
    """Copy the package into a folder, with one place of one file replaced.

    Args:
        folder: Where `keras_dp` is put.
        file: Path within the package.
        old: What the file has exactly once.
        new: What the copy has there.
    """
    copy = folder / "keras_dp"
    shutil.copytree(ROOT / "keras_dp", copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} no longer has {old!r} once"
    (copy / file).write_text(source.replace(old, new), encoding="utf-8")


def run(folder, tests, seconds=SECONDS):
    """Run tests of the repository on the package in this folder, until one fails."""
    output = folder / "output.txt"
    output.touch()
    receiver, sender = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_run, args=(str(folder), tests, str(output), sender))
    with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1"):  # or the server had more threads
        process.start()
    sender.close()
    outcome = Outcome()
    try:
        if receiver.poll(seconds):
            outcome = receiver.recv()
        else:
            outcome.errors.append(f"no end after {seconds} s")
    except EOFError:
        outcome.errors.append("the process ended before pytest did")
    process.kill()
    process.join()
    outcome.output = output.read_text(encoding="utf-8", errors="replace")
    return outcome


def _run(folder, tests, output, sender):
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)  # processes that tests start import from there first, then from PYTHONPATH
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(ROOT)])
    sys.path = [folder, *(path for path in sys.path if Path(path).resolve() != ROOT)]
    import hypothesis
    import pytest

    # A failure is enough: the smallest example that fails would be looked for at length.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("planted", derandomize=True, database=None, phases=phases)
    settings = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=planted"]
    settings += ["-o", f"pythonpath={shlex.quote(folder)} . examples"]
    outcome = Outcome()
    outcome.code = int(pytest.main([*settings, *(f"{ROOT}/{t}" for t in tests)], [outcome]))
    outcome.package = str(getattr(sys.modules.get("keras_dp"), "__file__", ""))
    sys.stdout.flush()  # the process is killed as soon as this has arrived
    sender.send(outcome)
