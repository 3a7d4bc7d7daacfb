"""Does `strongroom run` do what the policy file says? Real sources, real processes, a real clock."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import command_forks
import faiss
import numpy as np
import pytest
import yaml
from commands import COMMAND, PASSWORD, Ended, Place, environment, strongroom
from forks import DEVNULL, Running
from served import served

from strongroom.errors import Damaged
from strongroom.library import open_repository
from strongroom.operations.run import RunState
from strongroom.policy import marked

DOCS = Path(__file__).parents[2] / "docs"


class Policed:
    """A policy file about a FAISS index and a repository."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self.place = folder, place
        self.file, self.told = folder / "strongroom.yaml", folder / "told"
        (folder / "password").write_text(PASSWORD + "\n")
        self.document: dict[str, Any] = {
            "version": 1,
            "sources": {"docs": {"url": place.source, "tags": {"env": "prod"}}},
            "repositories": {"main": {"url": str(place.repo), "password_file": str(folder / "password")}},
            "notifications": {"log": {"command": {"command": ["/bin/sh", "-c", f"cat >> {self.told}; echo >> {self.told}"]}}},
            "policies": {"p": {"repository": "main", "notifications": ["log"], "schedule": [{"kind": "full", "interval": "1h"}]}},
        }

    @property
    def policy(self) -> dict[str, Any]:
        return self.document["policies"]["p"]

    def write(self) -> None:
        self.file.write_text(marked.write(self.document))

    def once(self, **env: str) -> tuple[Ended, list[dict[str, Any]]]:
        self.write()
        if any(one.get("interval") == "1s" for one in self.policy["schedule"]):
            newest = max(datetime.fromisoformat(one.manifest.created) for one in self.snapshots())
            time.sleep(max(0.0, 1 - (datetime.now(UTC) - newest).total_seconds()))
        ended = strongroom("run", "--once", "--file", self.file, env={"STRONGROOM_PASSWORD": "a wrong one", **env})
        lines = [line for line in ended.err.splitlines() if line.startswith("{")]
        return ended, [json.loads(line) for line in lines]

    def start(self) -> Running:
        self.write()
        return command_forks.start(["run", "--file", self.file], environment(STRONGROOM_PASSWORD=None), stdout=DEVNULL)

    def state(self) -> RunState:
        return RunState.of(self.file)

    def overdue(self) -> None:
        """As if all had been due long ago."""
        path = self.state().path
        found = json.loads(path.read_text())
        for one in found["done"].values():
            one["due"] = "2026-01-01T00:00:00+00:00"
        path.write_text(json.dumps(found))

    def snapshots(self) -> list[Any]:
        return open_repository(str(self.place.repo), password=PASSWORD).snapshots()


@pytest.fixture
def policed(tmp_path: Path, place: Place) -> Policed:
    return Policed(tmp_path, place)


def of(events: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [one for one in events if one["event"] == what]


def wait_for(process: Running, what: str) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == what:
            return event
    raise AssertionError(f"it ended without {what}")


def test_once_does_what_is_due_and_not_again(policed: Policed) -> None:
    policed.policy["retention"] = {"keep_last": 1}
    policed.policy["verification"] = {"checks": [{"level": "data", "when": {"interval": "1d"}}]}
    policed.policy["schedule"].append({"kind": "incremental", "interval": "1h"})
    policed.policy["objectives"] = {"rpo": "1h"}
    before = {one.id for one in policed.snapshots()}
    policed.write()
    state = policed.state()
    for work in ("full", "incremental"):  # else they count from the snapshot that is there
        number = 0 if work == "full" else 1
        state.begin(f"p/{work}/docs/main/{number}", datetime(2026, 1, 1, tzinfo=UTC))
    ended, events = policed.once()
    assert ended.code == 0, ended
    assert [(one["work"], one["event"]) for one in events if one["event"] in ("done", "skipped")] == [
        ("incremental", "skipped"),
        ("full", "done"),
        ("retention", "done"),
        ("verify", "done"),
    ]
    [left] = policed.snapshots()
    assert left.id not in before
    assert left.manifest.tags == {"env": "prod", "policy": "p"}
    assert of(events, "coalesced")[0]["passed_over"] > 1000
    again, events = policed.once()
    assert (again.code, events) == (0, [])


def test_a_source_without_a_snapshot_is_due_at_once_and_one_with_it_is_not(policed: Policed) -> None:
    assert policed.once()[1] == []  # it was backed up when the repository was made, less than an hour ago
    other = policed.folder / "other.faiss"
    other.write_bytes(policed.place.index.read_bytes())
    policed.document["sources"]["other"] = {"url": f"faiss://{other}"}
    assert [one["source"] for one in of(policed.once()[1], "done")] == ["other"]


def test_hooks_know_what_happens_and_no_secret(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    policed.policy["hooks"] = {
        "before": [{"command": ["/bin/sh", "-c", f"env > {policed.folder}/before"]}],
        "after": [{"command": ["/bin/false"]}, {"command": ["/bin/sh", "-c", f"env > {policed.folder}/after"]}],
    }
    ended, events = policed.once(STRONGROOM_KEY_FILE="/nowhere")
    assert ended.code == 0, ended
    before, after = ((policed.folder / name).read_text() for name in ("before", "after"))
    assert "STRONGROOM_EVENT=before" in before
    assert "STRONGROOM_SOURCE=docs" in before
    assert f"STRONGROOM_SNAPSHOT={policed.snapshots()[-1].id}" in after
    assert "STRONGROOM_OUTCOME=done" in after
    assert "STRONGROOM_PASSWORD" not in before + after
    assert "STRONGROOM_KEY_FILE" not in before + after
    assert "/bin/false ended with 1" in of(events, "hook")[0]["text"]


def test_a_hook_that_fails_or_hangs_stops_the_backup(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    after = policed.folder / "after"
    policed.policy["hooks"] = {
        "before": [{"command": ["/bin/sh", "-c", f"(sleep 60; touch {policed.folder}/late) & sleep 60"], "timeout": "500ms"}],
        "after": [{"command": ["/bin/sh", "-c", f"echo $STRONGROOM_OUTCOME > {after}"]}],
    }
    count = len(policed.snapshots())
    ended, events = policed.once()
    assert ended.code == 1
    assert "took longer than 0.5 s" in of(events, "failed")[0]["text"]
    assert after.read_text() == "failed\n"
    assert len(policed.snapshots()) == count
    assert json.loads(policed.told.read_text())["event"] == "failed"
    policed.policy["hooks"]["before"][0]["on_failure"] = "continue"
    policed.overdue()
    assert policed.once()[0].code == 0
    assert len(policed.snapshots()) == count + 1


def test_the_key_that_the_policy_wants_is_required(policed: Policed) -> None:
    policed.policy.update({"schedule": [{"kind": "full", "interval": "1s"}], "encryption": {"key": "daemon"}})
    ended, events = policed.once()
    assert ended.code == 5
    assert "the policy wants key 'daemon'" in of(events, "failed")[0]["text"]


def test_a_hold_of_the_policy_beats_its_retention_and_stays_released(policed: Policed) -> None:
    policed.policy.update({"schedule": [{"kind": "full", "interval": "1s"}], "retention": {"keep_last": 1}})
    policed.policy["holds"] = [{"reason": "CASE-114", "authority": "legal"}]
    policed.once()
    assert len(policed.snapshots()) == 2
    room = open_repository(str(policed.place.repo), password=PASSWORD)
    [record] = room.holds()
    room.release_hold(record.hold.id, reason="over", authority="legal")
    policed.overdue()
    assert policed.once()[0].code == 0
    assert len(policed.snapshots()) == 1
    assert len(room.holds()) == 1


def test_an_objective_is_said_to_be_broken_once_and_recovered_once(policed: Policed) -> None:
    policed.policy.update({"objectives": {"rpo": "500ms"}, "schedule": [{"kind": "incremental", "cron": "0 0 1 1 *"}]})
    ended, events = policed.once()
    assert ended.code == 5
    assert of(events, "broken")[0]["objective"] == "RPO"
    assert of(policed.once()[1], "broken") == []
    policed.policy["objectives"] = {"rpo": "1d"}
    ended, events = policed.once()
    assert (ended.code, len(of(events, "recovered"))) == (0, 1)
    assert [json.loads(line)["event"] for line in policed.told.read_text().splitlines()] == ["broken", "recovered"]


def test_a_bandwidth_limit_holds_a_backup_back(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    size = policed.place.index.stat().st_size
    policed.document["sources"]["docs"]["limits"] = {"read": f"{size}B"}  # rows and file are read: twice the size
    done = of(policed.once()[1], "done")[0]
    assert done["seconds"] > done["waited_for_rate"] > 0.7  # a second's worth is free


def test_what_comes_too_late_is_missed_and_said(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1h", "grace": "1ms"}]
    policed.write()
    policed.state().begin("p/full/docs/main/0", datetime(2026, 1, 1, tzinfo=UTC))
    count = len(policed.snapshots())
    ended, events = policed.once()
    assert ended.code == 0, ended
    assert [one["event"] for one in events] == ["missed"]
    assert json.loads(policed.told.read_text())["event"] == "missed"
    assert len(policed.snapshots()) == count
    assert policed.once()[1] == []  # the next hour is waited for


def test_each_missed_run_is_made_up_for_if_it_is_wished(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1h", "coalesce": False}]
    policed.write()
    policed.state().begin("p/full/docs/main/0", datetime.now(UTC) - timedelta(hours=3, minutes=1))
    count = len(policed.snapshots())
    assert len(of(policed.once()[1], "done")) == 3
    assert len(policed.snapshots()) == count + 3


def test_a_run_that_is_due_while_it_still_runs_is_skipped(policed: Policed) -> None:
    turn = policed.folder / "turn"
    alone = f"mkdir {turn} || touch {policed.folder}/two; sleep 2.5; rmdir {turn}"
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}, {"kind": "incremental", "interval": "1s", "jitter": "100ms"}]
    policed.policy["hooks"] = {"before": [{"command": ["/bin/sh", "-c", alone]}]}
    with served(policed.document, policed.folder) as told:
        told.wait_for("started", 2, work="full")
        told.wait_until(lambda: any("while it still runs" in one["text"] for one in told.of("skipped", work="full")))
        told.wait_until(lambda: any("never two of one source" in one["text"] for one in told.of("skipped", work="incremental")))
    assert not (policed.folder / "two").exists()
    assert len(told.of("done", work="full")) == len(told.of("started", work="full"))  # what ran was finished


def test_a_slow_source_pauses_a_backup_until_it_answers(policed: Policed) -> None:
    slow, index = policed.folder / "slow", policed.folder / "large.faiss"
    slow.touch()
    vectors = faiss.IndexFlatL2(32)
    vectors.add(np.random.default_rng(1).normal(size=(200_000, 32)).astype(np.float32))  # several blocks
    faiss.write_index(vectors, str(index))
    query = {"command": ["/bin/sh", "-c", f"if test -e {slow}; then sleep 0.3; fi"]}
    latency = {"ceiling": "200ms", "every": "20ms", "query": query, "patience": "60s"}
    policed.document["sources"]["docs"] = {"url": f"faiss://{index}", "limits": {"read": "16MB", "latency": latency}}
    policed.document["notifications"]["log"]["on"] = ["held_back", "failed", "done"]
    count = len(policed.snapshots())
    process = policed.start()
    try:
        while "pauses" not in wait_for(process, "held_back")["text"]:
            pass
        time.sleep(1)
        assert len(policed.snapshots()) == count
        slow.unlink()
        done = wait_for(process, "done")
        assert done["waited_for_latency"] > 0.1
        assert done["slow_queries"] >= 5
        assert len(policed.snapshots()) == count + 1
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_source_that_stays_slow_ends_the_backup_without_a_trace(policed: Policed) -> None:
    latency = {"ceiling": "1ms", "every": "10ms", "query": {"command": ["/bin/false"]}, "patience": "1s"}
    policed.document["sources"]["docs"]["limits"] = {"read": "500kB", "latency": latency}
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    count = len(policed.snapshots())
    ended, events = policed.once()
    assert ended.code == 1
    assert "slower than 0.001 s" in of(events, "failed")[0]["text"]
    assert len(policed.snapshots()) == count


def test_stopped_at_a_signal_it_is_begun_again(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    policed.document["sources"]["docs"]["limits"] = {"read": "20kB"}  # for half a minute
    count = len(policed.snapshots())
    process = policed.start()
    wait_for(process, "started")
    wait_for(process, "started")
    other = strongroom("run", "--once", "--file", policed.file)
    assert other.code == 11
    assert "another 'strongroom run'" in other.err
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert '"event": "stopped"' in said
    assert len(policed.snapshots()) == count
    policed.document["sources"]["docs"]["limits"] = {}
    policed.overdue()
    assert policed.once()[0].code == 0
    assert len(policed.snapshots()) == count + 1


def test_killed_or_stopped_twice_it_is_due_again(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    policed.policy["hooks"] = {"before": [{"command": ["/bin/sleep", "60"]}]}
    process = policed.start()
    wait_for(process, "started")
    wait_for(process, "started")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # what runs is finished
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr is not None
    process.stderr.close()
    policed.policy["hooks"] = {}
    assert len(of(policed.once()[1], "done")) == 1


def test_a_lost_state_is_said_and_nothing_breaks(policed: Policed) -> None:
    policed.write()
    path = policed.state().path
    path.parent.mkdir(parents=True)
    path.write_text('{"done": {"p/full/docs/main/0": {"due": 3}}}')
    ended, events = policed.once()
    assert ended.code == 0, ended
    assert "could not be read" in of(events, "unknown")[0]["text"]


def test_what_failed_is_tried_again_later(policed: Policed) -> None:
    policed.document["sources"]["gone"] = {"url": f"faiss://{policed.folder}/gone.faiss"}
    ended, events = policed.once()
    assert ended.code == 1
    assert of(events, "failed")[0]["source"] == "gone"
    found = json.loads(policed.state().path.read_text())["done"]["p/full/gone/main/0"]
    assert (found["failures"], found["outcome"]) == (1, "failed")
    assert found["again"] > found["ended"]
    assert policed.once()[1] == []  # a minute has not passed


def test_a_document_is_published_and_read_back(policed: Policed) -> None:
    policed.write()
    for _ in range(2):
        ended = strongroom("config", "publish", "--file", policed.file, "--json", env={"STRONGROOM_PASSWORD": None})
        assert ended.json["main"]["version"] == 1, ended
    policed.policy["objectives"] = {"rpo": "1d"}
    policed.write()
    strongroom("config", "publish", "--file", policed.file, env={"STRONGROOM_PASSWORD": None}).done()
    room = open_repository(str(policed.place.repo), password=PASSWORD)
    published = room.published_policy()
    assert published is not None
    assert (published.version, published.document["policies"]["p"]["objectives"]) == (2, {"rpo": "1d"})
    path = policed.place.repo / "policies" / published.id
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(Damaged, match="altered"):
        room.published_policy()


def test_commands_show_what_is_wrong(policed: Policed) -> None:
    policed.policy["retenton"] = {}
    policed.write()
    ended = strongroom("config", "check", "--file", policed.file, "--json")
    assert ended.code == 2
    [problem] = ended.json["problems"]
    assert "did you mean 'retention'" in problem["what"]
    strongroom("run", "--once", "--file", policed.file).failed(2, "did you mean 'retention'")
    strongroom("plan", "--file", policed.folder / "none.yaml").failed(1, "not there")
    del policed.policy["retenton"]
    policed.write()
    runs = strongroom("plan", "--file", policed.file, "--json").done().json["runs"]
    assert {one["why"] for one in runs} == {"policy p: every source"}
    assert len(runs) == 169


def test_systemd_runs_what_the_unit_says(policed: Policed) -> None:
    policed.write()
    printed = subprocess.run([COMMAND, "run", "--systemd-unit", "--file", policed.file], capture_output=True, text=True, check=True)
    unit = policed.folder / "strongroom.service"
    unit.write_text(printed.stdout)
    if shutil.which("systemd-analyze"):
        looked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        assert (looked.returncode, looked.stdout + looked.stderr) == (0, "")
    [start] = [line.partition("=")[2] for line in printed.stdout.splitlines() if line.startswith("ExecStart=")]
    process = subprocess.Popen(shlex.split(start), stderr=subprocess.PIPE, text=True, env=environment(JOURNAL_STREAM="8:1"))
    assert process.stderr is not None
    assert process.stderr.readline().startswith('<6>{"event": "started"')
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1].endswith('"nothing runs any more"}\n')
    assert process.returncode == 0


def test_kubernetes_runs_what_the_example_says(policed: Policed) -> None:
    policed.policy["schedule"] = [{"kind": "full", "interval": "1s"}]
    policed.write()
    text = (DOCS / "OPERATIONS.md").read_text().partition("\n### Kubernetes\n")[2].partition("\n\n")[0]
    job = yaml.safe_load(textwrap.dedent(text.partition("\n\n")[0]))
    assert (job["kind"], job["spec"]["concurrencyPolicy"]) == ("CronJob", "Forbid")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    inside = {one["name"]: one["value"] for one in container["env"]}
    assert inside["STRONGROOM_STATE_DIR"] in mounted
    arguments = [str(policed.file) if one == "/etc/strongroom/strongroom.yaml" else one for one in container["args"]]
    assert str(policed.file) in arguments
    ended = strongroom(*arguments, env={"STRONGROOM_STATE_DIR": str(policed.folder / "state")})
    assert (ended.code, '"event": "done"' in ended.err) == (0, True)
