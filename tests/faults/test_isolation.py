"""What becomes of us when an engine's code crashes, prints, fails or is orphaned? Nothing: it runs in a process of its own.

So it does in the forks that other tests run it in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import engine_forks
import pytest

from strongroom.engines import isolation
from strongroom.engines.isolation import Descriptor, ask, call, prepared
from strongroom.errors import Damaged, EngineFailed

FORKING = "import sys; sys.path.append(sys.argv[1]); import engine_forks; engine_forks.fork_children();"


@pytest.fixture(params=["started", "forked"], autouse=True)
def way(request, monkeypatch):
    """How children start."""
    if request.param == "started":
        monkeypatch.setattr(isolation, "_started", engine_forks.START)
    return request.param


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
    (tmp_path / "unheard_of.py").touch()
    monkeypatch.chdir(tmp_path)
    assert call("os:getcwd") == str(tmp_path)
    assert call("importlib.util:find_spec", "unheard_of") is None
    assert call("importlib.util:find_spec", "numpy").origin != str(tmp_path / "numpy.py")
    assert call("numpy:array_equal", [1, 2], [1, 2])


def test_an_orphan_dies_with_its_parent(way, tmp_path):
    code = "from strongroom.engines.isolation import call; call('builtins:exec', sys.argv[2])"
    told = f"import os, time; os.symlink(str(os.getpid()), {str(tmp_path / 'pid')!r}); time.sleep(60)"
    assert engine_forks.CHILDREN.name
    arguments = [str(Path(engine_forks.__file__).parent), told]
    parent = subprocess.Popen([sys.executable, "-c", (FORKING if way == "forked" else "import sys;") + code, *arguments])
    try:
        child = int(_wait_for(lambda: (tmp_path / "pid").is_symlink() and (tmp_path / "pid").readlink()).name)
        assert (child in _children(parent.pid)) == (way == "started")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert _wait_for(lambda: not _alive(child))
    finally:
        parent.kill()


@pytest.mark.parametrize("way", ["forked"], indirect=True)
def test_a_child_with_other_surroundings_is_no_fork(monkeypatch):
    assert call("os:getppid") != os.getpid()
    assert call("os:getenv", "OMP_NUM_THREADS") == "1"
    monkeypatch.setenv("STRONGROOM_STATE_DIR", "changed")
    assert (call("os:getppid") != os.getpid(), call("os:getenv", "STRONGROOM_STATE_DIR")) == (True, "changed")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert (call("os:getppid") == os.getpid(), call("os:getenv", "OMP_NUM_THREADS")) == (True, "2")


def test_a_child_outlives_the_thread_that_wanted_it():
    """Linux kills a child of a thread that ends, unless another one started it."""
    asked = []

    def first() -> None:
        stack.enter_context(prepared("os:getpid"))
        asked.append(ask("os:getpid"))

    with ExitStack() as stack:
        thread = threading.Thread(target=first)
        thread.start()
        thread.join()
        while Path(f"/proc/self/task/{thread.native_id}").exists():
            time.sleep(0.01)
        assert [ask("os:getpid") for _ in range(2)] == asked * 2


def test_an_open_file_is_passed_whatever_its_number_and_its_name(tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("rb") as two:
        (tmp_path / "one").unlink()
        assert call("os:pread", Descriptor(two.fileno()), 3, 0) == b"two"
        assert call("os:pread", Descriptor(one.fileno()), 3, 0) == b"one"
        assert call("os:sendfile", Descriptor(_writable(tmp_path / "three")), Descriptor(one.fileno()), 0, 3) == 3
    assert (tmp_path / "three").read_bytes() == b"one"


def _writable(path):
    return os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)


def test_a_large_request_and_a_large_answer_pass():
    assert call("builtins:len", bytes(30_000_000)) == 30_000_000
    assert call("builtins:bytes", 30_000_000) == bytes(30_000_000)


def test_a_prepared_child_serves_the_first_call_and_no_other():
    with prepared("os:getpid"):
        waiting = isolation._waiting["os"]._process.pid
        assert call("os:getpid") == waiting
        assert call("os:getpid") != waiting
        assert "os" not in isolation._waiting
    assert not _alive(waiting)


def test_one_child_answers_all_that_is_asked():
    with prepared("os:getpid"):
        waiting = isolation._waiting["os"]._process.pid
        assert [ask("os:getpid") for _ in range(3)] == [waiting] * 3
        assert ask("os:urandom", 3_000_000) != ask("os:urandom", 3_000_000)
        with pytest.raises(EngineFailed, match="SIGABRT"):
            ask("os:abort")
        another = ask("os:getpid")
        assert another == ask("os:getpid") != waiting
        with pytest.raises(EngineFailed, match="FileNotFoundError"):
            ask("os:stat", "/nowhere")
        with pytest.raises(EngineFailed, match="ended with 7"):
            ask("os:_exit", 7)
        with pytest.raises(EngineFailed, match="without an answer"):
            ask("os:_exit", 0)
    assert not _alive(another)
    assert ask("os:getpid") != ask("os:getpid"), "nobody keeps it"


def test_a_child_that_holds_much_is_asked_no_more(monkeypatch):
    with prepared("os:getpid"):
        first = ask("os:getpid")
        monkeypatch.setattr(isolation, "_KEPT_BYTES", 1000)
        assert ask("os:getpid") == first
        assert not _alive(first)
        assert ask("os:getpid") != first


def test_a_prepared_child_has_loaded_what_it_needs(tmp_path):
    """The function is called before anybody asks."""
    with prepared("threading:active_count"):
        assert call("threading:active_count") >= 1
    with prepared("strongroom.engines.faiss.library:load"):
        waiting = isolation._waiting["strongroom.engines.faiss.library"]._process.pid
        assert _wait_for(lambda: "_swigfaiss" in Path(f"/proc/{waiting}/maps").read_text())


def test_a_prepared_child_that_nobody_asked_ends():
    with prepared("os:getpid"):
        waiting = isolation._waiting["os"]._process.pid
        with prepared("os:getpid"):  # the one that is there does for both
            assert isolation._waiting["os"]._process.pid == waiting
        assert _alive(waiting)
    assert not _alive(waiting)
    with pytest.raises(KeyError), prepared("os:getpid"):
        waiting = isolation._waiting["os"]._process.pid
        raise KeyError
    assert not _alive(waiting)


def test_a_library_that_can_not_be_loaded_is_reported_by_the_call():
    for loading in ("os:abort", "nowhere:load", "os:no_such"):
        with prepared(loading), pytest.raises(EngineFailed):
            call(loading)
    with prepared("os:no_such"):
        assert call("os:getpid") > 0


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
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError("it never came true")
