"""What becomes of us when an engine's code crashes, prints, fails or is orphaned? Nothing: it runs in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from strongroom.engines.isolation import call
from strongroom.errors import Damaged, EngineFailed


def test_a_crash_is_a_finding():
    with pytest.raises(EngineFailed, match="SIGABRT"):
        call("os:abort")


def test_a_sudden_exit_is_a_finding():
    with pytest.raises(EngineFailed, match="ended with 7"):
        call("os:_exit", 7)


def test_an_exception_is_one_line():
    with pytest.raises(EngineFailed, match="ValueError: ") as caught:
        call("builtins:int", "no\nnumber")
    assert "\n" not in str(caught.value)


def test_what_is_printed_below_python_does_not_spoil_the_answer():
    assert call("os:system", "echo engines print to file descriptor 1") == 0


def test_our_errors_come_back_whole():
    error = Damaged("packs/x", "gone", hint="look")
    with pytest.raises(EngineFailed):
        call("builtins:getattr", error, "nothing of that name")
    copy = call("copy:copy", error)
    assert (copy.subject, copy.problem, copy.hint, copy.exit_code) == ("packs/x", "gone", "look", 4)


def test_nothing_is_imported_from_the_present_directory(tmp_path, monkeypatch):
    (tmp_path / "faiss.py").write_text("raise SystemExit('imported from here')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path)
    assert call("importlib.util:find_spec", "numpy").origin != str(tmp_path / "numpy.py")
    assert call("numpy:array_equal", [1, 2], [1, 2])


def test_an_orphan_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", "from strongroom.engines.isolation import call; call('time:sleep', 60)"])
    try:
        child = _wait_for(lambda: _children(parent.pid))[0]
        time.sleep(0.5)  # until it has taken its arguments and sleeps
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert _wait_for(lambda: not _alive(child))
    finally:
        parent.kill()


def _children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(one) for one in found.stdout.split()]


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def _wait_for(condition):
    for _ in range(200):
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError("it never came true")
