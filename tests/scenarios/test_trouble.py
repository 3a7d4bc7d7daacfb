"""When disks fill, permissions are missing, networks break, sources vanish or somebody presses Ctrl-C: is nothing lost?

Every command here fails halfway in one line, and the same command then succeeds once the cause is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, PASSWORD, Ended, Place, build_index, environment, strongroom
from processes import program
from seaweed import SeaweedFS
from trouble import CuttingProxy, SmallDisk, sabotaged, without_root_powers

from strongroom.engines.waiting import readable
from strongroom.library import open_repository


@pytest.fixture
def larger(tmp_path: Path) -> str:
    """A source that needs some megabytes in a repository."""
    return f"faiss://{build_index(tmp_path / 'larger' / 'large.faiss', rows=12_000, dimension=96, seed=2)}"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", 1_000_000)
    yield disk
    disk.close()


# -- full disks ------------------------------------------------------------------------------------------------------------


def test_a_full_repository_keeps_what_it_has(disk: SmallDisk, pristine: Place, larger: str, tmp_path: Path) -> None:
    place = Place(disk.path / "repo", pristine.index)
    subprocess.run(["cp", "-r", str(pristine.repo), str(place.repo)], check=True)
    place.run("backup", larger, preexec=disk.limit).failed(1, str(place.repo), "earlier snapshots")
    place.assert_whole(tmp_path)
    assert not list(place.repo.rglob(".unfinished-*"))
    disk.grow()
    assert place.run("backup", larger).code == 0
    place.assert_whole(tmp_path, count=2)
    assert place.run("verify", "--quiet").done()


def test_a_repository_is_not_made_on_a_full_disk(disk: SmallDisk) -> None:
    with pytest.raises(OSError, match="space left"), (disk.path / "filler").open("wb", buffering=0) as filler:
        for _ in range(1_000):
            filler.write(bytes(4096)) or pytest.fail("nothing was written")
    env = {"STRONGROOM_REPOSITORY": str(disk.path / "repo")}
    strongroom("init", env=env).failed(1, "no space left", "free some space")
    strongroom("snapshots", env=env).failed(10)
    (disk.path / "filler").unlink()
    assert strongroom("init", env=env).code == 0


def test_a_full_target_disk_keeps_the_target_as_it_was(disk: SmallDisk, place: Place, larger: str) -> None:
    assert place.run("backup", larger).code == 0
    target = disk.path / "out"
    build_index(target / "x.faiss", rows=100)
    before = (target / "x.faiss").read_bytes()
    restore = ("restore", "latest", f"faiss://{target}/x.faiss", "--overwrite")
    place.run(*restore, preexec=disk.limit).failed(1, str(target), "run the same command again")
    assert (target / "x.faiss").read_bytes() == before
    disk.grow()
    assert place.run(*restore).code == 0
    assert (target / "x.faiss").read_bytes() == Path(larger.removeprefix("faiss://")).read_bytes()
    assert sorted(path.name for path in target.iterdir()) == ["x.faiss", "x.faiss.strongroom.json"]


def test_output_that_nobody_takes_is_an_error_or_an_end(pristine: Place) -> None:
    with Path("/dev/full").open("wb") as full:
        pristine.run("snapshots", stdout=full).failed(1, "no space left")
        pristine.run("show", stdout=full).failed(1, "no space left")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = pristine.run("show", stdout=writing)
    finally:
        os.close(writing)
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) <= 1


# -- permissions -----------------------------------------------------------------------------------------------------------


def test_an_unreadable_source(place: Place, tmp_path: Path) -> None:
    index = build_index(tmp_path / "secret.faiss", rows=100)
    index.chmod(0)
    place.run("backup", f"faiss://{index}", preexec=without_root_powers).failed(1, str(index), "permission denied")
    place.assert_whole(tmp_path)


def test_an_unreadable_repository(place: Place, tmp_path: Path) -> None:
    place.repo.chmod(0)
    place.run("snapshots", preexec=without_root_powers).failed(1, "permission denied", "owner and mode")
    place.repo.chmod(0o700)
    place.assert_whole(tmp_path)


def test_a_repository_that_is_only_readable(place: Place, larger: str, tmp_path: Path) -> None:
    folders = [place.repo, *(path for path in place.repo.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    place.run("backup", larger, preexec=without_root_powers).failed(1, "permission denied", "owner and mode")
    listed = place.run("snapshots", "--json", preexec=without_root_powers).done()
    assert len(listed.json) == 1
    assert place.run("verify", "--quiet", preexec=without_root_powers).code == 0
    for folder in folders:
        folder.chmod(0o700)
    place.assert_whole(tmp_path)


def test_a_target_without_permission(place: Place, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    for target in (f"faiss:{tmp_path}/closed/x.faiss", f"faiss:{tmp_path}/closed/below/x.faiss"):
        place.run("restore", "latest", target, preexec=without_root_powers).failed(1, "closed", "permission denied")
    assert not list((tmp_path / "closed").iterdir())


def test_a_password_file_of_somebody_else(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0)
    env = {"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_FILE": str(secret)}
    place.run("snapshots", env=env, preexec=without_root_powers).failed(1, "password", "permission denied")


def test_a_machine_that_may_not_remember_still_backs_up(place: Place, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir(mode=0o500)
    env = {"STRONGROOM_STATE_DIR": str(tmp_path / "notes" / "state")}
    assert place.run("backup", place.source, env=env, preexec=without_root_powers).done()


# -- networks --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(seaweed: SeaweedFS) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(seaweed.port)
    yield proxy
    proxy.close()


def test_a_network_cut_in_the_middle(seaweed: SeaweedFS, proxy: CuttingProxy, pristine: Place, larger: str, tmp_path: Path) -> None:
    seaweed.make_bucket("cut")
    env: dict[str, str | None] = {
        **seaweed.environment(proxy.port),
        "STRONGROOM_REPOSITORY": "s3://cut/repo",
        "STRONGROOM_RETRY_SECONDS": "1",
    }

    def run(*arguments: str) -> Ended:
        return strongroom(*arguments, env=env)

    assert run("init").code == 0
    assert run("backup", pristine.source).code == 0

    proxy.allow(2_000_000)  # of the 5 MB of the larger source
    run("backup", larger).failed(1, "s3://cut/repo", "check the network", "same command again")
    assert proxy.broken
    run("snapshots").failed(1, "check the network")  # the server is gone for good

    proxy.allow(float("inf"))
    assert len(run("snapshots", "--json").done().json) == 1
    assert run("backup", larger).code == 0

    restore = ("restore", "latest", f"faiss:{tmp_path}/out/large.faiss")
    proxy.allow(2_000_000)
    run(*restore).failed(1, "check the network")
    assert not (tmp_path / "out" / "large.faiss").exists()
    proxy.allow(float("inf"))
    assert run(*restore).code == 0
    assert (tmp_path / "out" / "large.faiss").read_bytes() == Path(larger.removeprefix("faiss://")).read_bytes()
    first = run("snapshots", "--json").json[0]["id"]
    assert run("restore", first, f"faiss:{tmp_path}/out/x.faiss").code == 0
    assert (tmp_path / "out" / "x.faiss").read_bytes() == pristine.index.read_bytes()
    assert run("verify", "--quiet").done()


def test_clouds_that_refuse(seaweed: SeaweedFS) -> None:
    env: dict[str, str | None] = {**seaweed.environment(), "STRONGROOM_RETRY_SECONDS": "1"}
    strongroom("snapshots", "-r", "s3://nobodys-bucket/x", env=env).failed(10, "no repository")
    env["AWS_SECRET_ACCESS_KEY"] = "guess"
    ended = strongroom("snapshots", "-r", "s3://ready/x", env=env).failed(1, "refused access", "credentials")
    assert "guess" not in ended.err


# -- sources that vanish ---------------------------------------------------------------------------------------------------


def build_chroma(folder: Path) -> str:
    text = f"""
import chromadb, numpy
client = chromadb.PersistentClient({str(folder)!r}, chromadb.config.Settings(anonymized_telemetry=False))
collection = client.create_collection("texts", configuration={{"hnsw": {{"sync_threshold": 500}}}})
vectors = numpy.random.default_rng(1).standard_normal((1200, 16)).astype("f4")
for start in range(0, 1200, 400):
    part = slice(start, start + 400)
    collection.add(ids=[str(i) for i in range(start, start + 400)], embeddings=vectors[part])
"""
    assert program("-c", text).wait() == 0
    return f"chroma://{folder}"


def build_lance(folder: Path) -> str:
    import lancedb
    import pyarrow as pa

    vectors = np.random.default_rng(1).standard_normal((1200, 16)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 16)
    lancedb.connect(folder).create_table("texts", pa.table({"id": [str(i) for i in range(1200)], "vector": column}))
    return f"lancedb://{folder}"


def build_faiss(folder: Path) -> str:
    return f"faiss://{build_index(folder / 'gone.faiss', rows=1200, dimension=16)}"


@pytest.mark.parametrize("build", [build_faiss, build_chroma, build_lance])
@pytest.mark.parametrize("stage", ["rows of", "index"])
def test_a_source_deleted_during_the_backup(build, stage: str, place: Place, tmp_path: Path) -> None:
    """Either it was held open, then the snapshot is whole; or it wasn't, then there is none."""
    folder = tmp_path / "source"
    source = build(folder)
    ended = place.run("backup", source, program=sabotaged(f"shutil.rmtree({str(folder)!r})", stage))
    assert not folder.exists(), ended
    if ended.code == 0:
        place.assert_whole(tmp_path, count=2)
        assert place.run("verify", "latest", "--level", "answers", "--quiet").done()
    else:
        ended.failed(1, "texts" if source.startswith("lancedb") else str(folder))
        place.assert_whole(tmp_path, count=1)


@pytest.mark.parametrize("build", [build_faiss, build_lance])
def test_a_source_cut_short_during_the_backup(build, place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    source = build(folder)
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    ended = place.run("backup", source, program=sabotaged(f"os.truncate({str(victim)!r}, 1000)", "rows of"))
    ended.failed(1, "gone.faiss" if source.startswith("faiss") else "texts")
    place.assert_whole(tmp_path)


# -- interruptions ---------------------------------------------------------------------------------------------------------


def interrupted(place: Place, stage: str, *arguments: str) -> Ended:
    """Run the command until `stage`, press Ctrl-C (a signal to the whole process group), press it again, and wait for its end."""
    waits = "print('reached', flush=True)\ntime.sleep(120)"
    running = subprocess.Popen(
        [*sabotaged(waits, stage), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**place.env),
        start_new_session=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"reached\n"
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    return Ended(running.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("stage", ["rows of", "index"])
def test_ctrl_c_during_a_backup(stage: str, place: Place, larger: str, tmp_path: Path) -> None:
    interrupted(place, stage, "backup", larger).failed(130, "interrupted", "same command again")
    place.assert_whole(tmp_path)
    assert place.run("backup", larger).code == 0
    assert place.run("verify", "--quiet").done()


@pytest.mark.parametrize("stage", ["files", "reading back"])
def test_ctrl_c_during_a_restore(stage: str, place: Place, tmp_path: Path) -> None:
    restore = ("restore", "latest", f"faiss:{tmp_path}/out/x.faiss")
    interrupted(place, stage, *restore).failed(130, "interrupted", "same command again")
    assert not (tmp_path / "out" / "x.faiss").exists()
    assert place.run(*restore).code == 0
    assert (tmp_path / "out" / "x.faiss").read_bytes() == place.index.read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.faiss", "x.faiss.strongroom.json"]


# -- questions at a terminal -----------------------------------------------------------------------------------------------


def at_a_terminal(arguments: Sequence[str], typed: Sequence[str], env: dict[str, str | None]) -> tuple[Ended, str]:
    """Run the command with a terminal for input and errors; each text is typed at the next question. How it ended, and what the
    terminal showed."""
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    running = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(STRONGROOM_PASSWORD=None, TERM="dumb", **env),
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    shown, waiting = "", list(typed)
    answered = 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if readable(ours, 0.1):
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:  # the other side is closed
                break
        if waiting and shown.count(": ") > answered and shown.endswith(": "):
            answered = shown.count(": ")
            os.write(ours, waiting.pop(0).encode())
    out, _ = running.communicate(timeout=60)
    os.close(ours)
    assert not waiting, shown
    return Ended(running.returncode, out.decode(), shown), shown


def test_a_new_password_is_asked_for_twice(tmp_path: Path) -> None:
    env: dict[str, str | None] = {"STRONGROOM_REPOSITORY": str(tmp_path / "repo")}
    ended, shown = at_a_terminal(["init", "--json"], ["first\r", "other\r", "s3cret\r", "s3cret\r"], env)
    assert ended.code == 0, ended
    assert "do not match" in shown
    assert "s3cret" not in shown
    assert sorted(json.loads(ended.out)) == ["repository", "url"]
    assert open_repository(str(tmp_path / "repo"), password="s3cret").snapshots() == []


def test_the_password_is_asked_for(place: Place) -> None:
    ended, shown = at_a_terminal(["backup", "--json", "--quiet", place.source], [f"{PASSWORD}\r"], place.env)
    assert ended.code == 0, ended
    assert PASSWORD not in shown
    assert ended.json["rows"] == 2_000
    ended, _ = at_a_terminal(["snapshots"], ["guess\r"], place.env)
    assert (ended.code, ended.out) == (12, "")


def test_a_changed_password_is_asked_for(place: Place) -> None:
    ended, shown = at_a_terminal(["key", "passwd", "--json"], [f"{PASSWORD}\r", "n3w\r", "n3w\r"], place.env)
    assert ended.code == 0, ended
    assert "n3w" not in shown
    assert len(open_repository(str(place.repo), password="n3w").snapshots()) == 1
    place.run("snapshots").failed(12)


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_no_answer_to_the_question_is_an_interruption(key: str, place: Place) -> None:
    ended, shown = at_a_terminal(["snapshots"], [key], place.env)
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in shown
