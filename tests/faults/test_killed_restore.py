"""Is a restore that is killed at any point either not begun, resumable or done, and does the plain command finish it?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_forks import CHILDREN
from processes import apart
from sampling import part_of
from worlds import CHEAP, PASSWORD, STRONGROOM, build_source

from strongroom.library import init_repository

HERE = Path(__file__).parent
POINTS = 12


@dataclass(frozen=True)
class Scenario:
    """A restore; `over` says that another database stands in its place and is to be replaced."""

    engine: str
    options: tuple[str, ...] = ()
    over: bool = False

    @property
    def leaf(self) -> str:
        return "index.faiss" if self.engine == "faiss" else "db"

    def arguments(self, snapshot: str, folder: Path) -> list[str]:
        overwrite = ("--overwrite",) if self.over else ()
        return ["restore", snapshot, f"{self.engine}://{folder / self.leaf}", "--quiet", *self.options, *overwrite]


FAISS = {
    "exact": Scenario("faiss"),
    "rebuilt": Scenario("faiss", ("--rung", "rebuild")),
    "overwriting": Scenario("faiss", over=True),
}
OTHERS = {
    "lancedb": Scenario("lancedb", over=True),
    "chroma": Scenario("chroma", over=True),
    "duckdb": Scenario("duckdb", over=True),
    "sqlite-vec": Scenario("sqlite-vec", over=True),
    "sqlite-vec, renamed": Scenario("sqlite-vec", ("--rename", "things=others")),
}
SCENARIOS = {**FAISS, **OTHERS}


class Commands:
    """Commands in processes that die when they are told to."""

    def __init__(self, environment: dict[str, str], place: Path) -> None:
        self._place = place
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "dying.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], last: int = 0) -> int:
        """How the command ended; killed before its step number `last`."""
        order = {"arguments": arguments, "last": last, "folder": str(self._place)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def done(self, arguments: list[str]) -> str:
        """What a command printed that must end well."""
        code = self.run(arguments)
        assert code == 0, (self._place / "err").read_text()
        return (self._place / "out").read_text()

    @property
    def steps(self) -> list[str]:
        return (self._place / "steps").read_text().split()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Bench:
    """A repository of one snapshot of each engine, and another database of each."""

    commands: Commands
    environment: dict[str, str]
    snapshots: dict[str, str]
    others: dict[str, Path]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    place = tmp_path_factory.mktemp("bench")
    assert CHILDREN.name  # those of the commands are ours
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("STRONGROOM_")},
        "STRONGROOM_STATE_DIR": str(place / "state"),
        "STRONGROOM_REPOSITORY": str(place / "repository"),
        "STRONGROOM_PASSWORD": PASSWORD,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    commands = Commands(environment, place)
    others, snapshots = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(place / "state"))
        room = init_repository(str(place / "repository"), password=PASSWORD, cost=CHEAP)
        for engine in dict.fromkeys(scenario.engine for scenario in SCENARIOS.values()):
            source, others[engine] = (make(engine, place / which / engine, which == "other") for which in ("source", "other"))
            snapshots[engine] = room.backup(f"{engine}://{source / Scenario(engine).leaf}").snapshot.id
    yield Bench(commands, environment, snapshots, others)
    commands.close()


def make(engine: str, folder: Path, other: bool) -> Path:
    """A folder with a database of this engine in it, made by the engine's own client in a process of its own."""
    folder.mkdir(parents=True)
    if engine == "faiss":
        build_source(folder, "index", 1 + other, rows=1_500 if other else 3_000)
        return folder
    start, count = (7_000, 300) if other else (0, 600)
    apart(made_as_in_conformance, engine, str(folder / "db"), start, count)
    return folder


def made_as_in_conformance(engine: str, place: str, start: int, count: int) -> None:
    sys.path.append(str(HERE.parent / "conformance"))
    from raw_engines import RAW

    RAW[engine].make(place, start, count)


_ENDS: dict[str, tuple[list[str], dict[str, bytes]]] = {}


def uninterrupted(name: str, bench: Bench, place: Path) -> tuple[list[str], dict[str, bytes]]:
    """The steps of a restore that nothing kills, and the files that it gives."""
    if name not in _ENDS:
        scenario = SCENARIOS[name]
        folder = prepared(scenario, bench, place / "uninterrupted")
        bench.commands.done(scenario.arguments(bench.snapshots[scenario.engine], folder))
        assert {"fsync", "rename", "read_blob", *(["call"] if name == "rebuilt" else [])} <= set(bench.commands.steps)
        _ENDS[name] = bench.commands.steps, files_in(folder)
    return _ENDS[name]


def prepared(scenario: Scenario, bench: Bench, folder: Path) -> Path:
    """The folder as it is before the restore."""
    if scenario.over:
        shutil.copytree(bench.others[scenario.engine], folder)
    else:
        folder.mkdir()
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """All files; of a receipt, all but the token, which depends on the target's path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name.endswith("strongroom.json"):
                content = json.dumps({**json.loads(content), "token": ""}).encode()
            found[path.relative_to(folder).as_posix()] = content
    return found


def points(steps: list[str], count: int) -> list[int]:
    """Where to kill: before and after each rename, and evenly spread in between. Steps count from 1."""
    renames = {at + after for at, name in enumerate(steps, 1) for after in (0, 1) if name == "rename" and at + after <= len(steps)}
    spread = [1 + number * (len(steps) - 1) // (count - 1) for number in range(count)]
    rest = [step for step in spread if step not in renames]
    keep = max(0, count - len(renames))
    chosen = {rest[number * len(rest) // keep] for number in range(keep)} if keep else set()
    return sorted(renames | chosen)


@pytest.mark.parametrize("number", part_of(range(1, POINTS, 3), range(POINTS)))
@pytest.mark.parametrize("name", FAISS)
def test_a_killed_restore_of_a_file_is_finished_by_the_same_command(name: str, number: int, bench: Bench, tmp_path: Path) -> None:
    kill_and_finish(name, number, POINTS, bench, tmp_path)


@pytest.mark.parametrize("number", part_of([1, 3], range(4)))
@pytest.mark.parametrize("name", OTHERS)
def test_a_killed_restore_of_a_directory_is_finished_by_the_same_command(
    name: str, number: int, bench: Bench, tmp_path: Path
) -> None:
    kill_and_finish(name, number, 4, bench, tmp_path)


def kill_and_finish(name: str, number: int, count: int, bench: Bench, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    steps, end = uninterrupted(name, bench, tmp_path)
    chosen = points(steps, count)
    step = chosen[number * (len(chosen) - 1) // (count - 1)]
    folder = prepared(scenario, bench, tmp_path / "target")
    before = files_in(folder)
    arguments = scenario.arguments(bench.snapshots[scenario.engine], folder)

    assert bench.commands.run(arguments, step) == -signal.SIGKILL
    require_old_or_new(folder, before, end)

    bench.commands.done(arguments)
    assert_same_end(scenario, folder, end)

    assert "there already" in bench.commands.done(arguments)
    assert_same_end(scenario, folder, end)


def require_old_or_new(folder: Path, before: dict[str, bytes], end: dict[str, bytes]) -> None:
    """Every old file stands in its place or aside in the stage, unless every new one is in place."""
    now = files_in(folder)
    visible = {path: content for path, content in now.items() if ".strongroom-" not in path}
    if all(visible.get(path) == content for path, content in end.items() if not path.endswith("strongroom.json")):
        return
    for path, content in before.items():
        aside = [kept for place, kept in now.items() if place.partition("/old/")[2] in (path, path.removeprefix("db/"))]
        assert content in (visible.get(path), *aside), path
    for path, content in visible.items():
        assert content in (before.get(path), end.get(path)), f"{path} is neither the old nor the new one"


def assert_same_end(scenario: Scenario, folder: Path, end: dict[str, bytes]) -> None:
    """The files of an uninterrupted restore and nothing else. Rebuilding, Lance and Chroma draw names and ids anew."""
    found = files_in(folder)
    assert not list(folder.rglob(".strongroom-*"))
    if scenario.engine == "faiss" or not scenario.options:
        assert found == end
    else:
        assert roots_of(found) == roots_of(end)


def roots_of(files: dict[str, bytes]) -> list[dict[str, str]]:
    """What the receipts say about the rows."""
    receipts = [json.loads(content) for path, content in files.items() if path.endswith("strongroom.json")]
    assert receipts
    return [receipt["collections"] for receipt in receipts]


@pytest.mark.parametrize("name", ["exact", "overwriting"])
def test_the_installed_command_finishes_it_too(name: str, bench: Bench, tmp_path: Path) -> None:
    """A restore killed in the middle of its cut-over, then the command as anybody runs it."""
    scenario = SCENARIOS[name]
    steps, end = uninterrupted(name, bench, tmp_path)
    folder = prepared(scenario, bench, tmp_path / "target")
    arguments = scenario.arguments(bench.snapshots[scenario.engine], folder)
    assert bench.commands.run(arguments, steps.index("rename") + 2) == -signal.SIGKILL
    assert list(folder.glob(".strongroom-*/publishing"))
    for said in ("an interrupted cut-over was finished", "there already"):
        run = subprocess.run([STRONGROOM, *arguments], env=bench.environment, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")
        assert said in run.stdout
        assert_same_end(scenario, folder, end)


def test_killed_again_and_again_it_still_ends_well(bench: Bench, tmp_path: Path) -> None:
    """Each run dies a little later than the one before had come."""
    scenario = SCENARIOS["overwriting"]
    _, end = uninterrupted("overwriting", bench, tmp_path)
    folder = prepared(scenario, bench, tmp_path / "target")
    before = files_in(folder)
    arguments = scenario.arguments(bench.snapshots["faiss"], folder)
    killed = 0
    for step in range(3, 60, 4):
        if bench.commands.run(arguments, step) == 0:
            break
        killed += 1
        require_old_or_new(folder, before, end)
    assert killed > 3
    bench.commands.done(arguments)
    assert_same_end(scenario, folder, end)
