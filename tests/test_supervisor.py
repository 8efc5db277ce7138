"""The supervisor with real processes: order of stopping, deaths, respawn, and that nothing ever stays behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simpl.front import shared_memory
from simpl.front.supervisor import Supervisor, installed_executable, log_tail
from simpl.graph import NodeSpec
from simpl_core.errors import EnvironmentMissingError

# A stand-in for a node: says what happens to it in a file that all share, so that order can be seen.
NODE = """\
#!{python} -S
import os, signal, sys, time
name = next(a.split(":=")[1] for a in sys.argv if a.startswith("__node:="))
def say(what):
    with open({diary!r}, "a") as diary:
        diary.write(f"{{name}} {{what}}\\n")
def interrupted(number, frame):
    say(signal.Signals(number).name)
    if name != "stubborn":
        sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, interrupted)
say("started")
print("hello from", name, *sys.argv[1:], flush=True)
if name == "doomed":
    print("the last words", flush=True)
    sys.exit(7)
if name == "bridge" and "short" in sys.argv[0]:
    sys.exit(0)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


@pytest.fixture
def find(tmp_path: Path, diary: Path) -> Callable[[NodeSpec], Path]:
    def executable(spec: NodeSpec) -> Path:
        path = tmp_path / spec.executable
        path.write_text(NODE.format(python=sys.executable, diary=str(diary)))
        path.chmod(0o755)
        return path

    return executable


def lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def specs(*names: str, respawn: tuple[str, ...] = (), executable: str = "node") -> list[NodeSpec]:
    return [NodeSpec(n, executable, respawn=n in respawn, ends_run=n == "bridge") for n in names]


def started(diary: Path, count: int) -> Callable[[], bool]:
    return lambda: sum(line.endswith("started") for line in lines(diary)) >= count


def test_nodes_stop_in_order_actors_first_and_plant_last(tmp_path, diary, find) -> None:
    names = ("arm_sim", "learner", "bridge", "guard", "policy")
    with Supervisor(specs(*names), tmp_path / "logs", find_executable=find) as supervisor:
        until(started(diary, 5))
        pids = supervisor.pids
        assert set(pids) == set(names)
        assert supervisor.poll() == []
    stopped = lines(diary)[5:]
    assert set(stopped[:2]) == {"policy SIGINT", "bridge SIGINT"}  # together: neither waits for the other
    assert stopped[2:] == [f"{name} SIGINT" for name in ("guard", "learner", "arm_sim")]
    assert not any(alive(pid) for pid in pids.values())


def test_a_node_gets_its_name_namespace_remappings_and_parameters_and_a_log(tmp_path, diary, find) -> None:
    spec = NodeSpec("policy", "node", {"bundle": "it's 1e3"}, remappings=(("clock", "sim/clock"),), namespace="left")
    with Supervisor([spec], tmp_path / "logs", find_executable=find):
        until(started(diary, 1))
        until(lambda: "hello" in log_tail(tmp_path / "logs" / "policy.log"))
    log = log_tail(tmp_path / "logs" / "policy.log")
    for piece in ("--ros-args", "__node:=policy", "__ns:=/left", "clock:=sim/clock", "--params-file"):
        assert piece in log
    assert "bundle: 'it''s 1e3'" in (tmp_path / "logs" / "parameters" / "policy.yaml").read_text()


def test_the_learner_is_started_again_after_kill_9_and_the_run_goes_on(tmp_path, diary, find) -> None:
    with Supervisor(specs("learner", "policy", respawn=("learner",)), tmp_path, find_executable=find) as supervisor:
        until(started(diary, 2))
        first = supervisor.pids["learner"]
        os.kill(first, signal.SIGKILL)
        deaths: list = []
        until(lambda: bool(deaths.extend(supervisor.poll()) or deaths))
        assert (deaths[0].name, deaths[0].cause) == ("learner", "SIGKILL")
        assert deaths[0].respawn_in is not None
        until(lambda: not supervisor.poll() and supervisor.pids.get("learner", first) != first)
        until(started(diary, 3))
        assert supervisor.failure is None
        assert supervisor.restarts == {"learner": 1}
    assert "started again" in log_tail(tmp_path / "learner.log")


def test_a_node_that_dies_at_once_is_started_again_ever_more_slowly(tmp_path, diary, find) -> None:
    with Supervisor(specs("doomed", respawn=("doomed",)), tmp_path, find_executable=find) as supervisor:
        deaths: list = []
        until(lambda: len(deaths.extend(supervisor.poll()) or deaths) >= 3)
    assert [death.respawn_in for death in deaths[:3]] == [0.5, 1.0, 2.0]


def test_a_dead_policy_is_a_failure_with_its_last_words(tmp_path, diary, find) -> None:
    with Supervisor(specs("guard", "doomed"), tmp_path, find_executable=find) as supervisor:
        until(lambda: bool(supervisor.poll() or supervisor.failure))
        assert supervisor.failure is not None
        assert (supervisor.failure.name, supervisor.failure.cause) == ("doomed", "exit status 7")
        assert supervisor.failure.tail().endswith("the last words")
        assert not supervisor.run_over


def test_the_end_of_the_bridge_is_the_end_of_the_run_not_a_failure(tmp_path, diary, find) -> None:
    graph = specs("policy") + specs("bridge", executable="short_node")
    with Supervisor(graph, tmp_path, find_executable=find) as supervisor:
        until(lambda: supervisor.poll() == [] and supervisor.run_over)
        assert supervisor.failure is None


def test_a_node_that_ignores_signals_is_killed_and_named(tmp_path, diary, find) -> None:
    supervisor = Supervisor(specs("stubborn", "policy"), tmp_path, find_executable=find, patience=2.0)
    supervisor.start()
    until(started(diary, 2))
    pids = supervisor.pids
    assert supervisor.stop() == ["stubborn"]
    assert lines(diary)[2:] == ["policy SIGINT", "stubborn SIGINT", "stubborn SIGTERM"]
    assert not any(alive(pid) for pid in pids.values())
    assert supervisor.stop() == []


def test_nothing_is_left_when_a_node_cannot_be_started(tmp_path, diary, find) -> None:
    def broken(spec: NodeSpec) -> Path:
        return tmp_path / "nowhere" if spec.name == "guard" else find(spec)

    with Supervisor(specs("policy", "guard"), tmp_path, find_executable=broken) as supervisor:
        until(lambda: bool(supervisor.poll() or supervisor.failure))
        assert supervisor.failure is not None and supervisor.failure.name == "guard"
        assert "nowhere" in supervisor.failure.tail()


PARENT = """\
import signal, sys, time
from pathlib import Path
from simpl.front.supervisor import Supervisor
from simpl.graph import NodeSpec
# A shell that starts the tests in the background lets them ignore SIGINT; this process must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
names, folder, patience = sys.argv[1].split(","), Path(sys.argv[2]), float(sys.argv[3])
supervisor = Supervisor(
    [NodeSpec(name, "node") for name in names], folder / "logs",
    find_executable=lambda spec: folder / "node", patience=patience,
)
with supervisor:
    print(*supervisor.pids.values(), flush=True)
    while True:
        supervisor.poll()
        time.sleep(0.05)
"""


@pytest.fixture
def parent(tmp_path, diary, find) -> Iterator[Callable[..., tuple[subprocess.Popen, list[int]]]]:
    """Starts a whole supervisor as a process of its own, to be killed."""
    find(NodeSpec("any", "node"))
    parents = []

    def start(*names: str, patience: float) -> tuple[subprocess.Popen, list[int]]:
        command = [sys.executable, "-c", textwrap.dedent(PARENT), ",".join(names), str(tmp_path), str(patience)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        parents.append(process)
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        until(started(diary, len(names)))
        return process, pids

    yield start
    for process in parents:
        process.kill()
        process.communicate()


def test_no_node_outlives_a_supervisor_killed_with_kill_9_not_even_a_stubborn_one(parent, diary) -> None:
    process, pids = parent("policy", "guard", "stubborn", patience=2.0)
    assert len(pids) == 3
    process.kill()
    until(lambda: not any(alive(pid) for pid in pids))
    assert {"policy SIGINT", "guard SIGINT", "stubborn SIGINT"} <= set(lines(diary))


def test_ctrl_c_reaches_only_the_supervisor_which_stops_the_nodes_in_order(parent, diary) -> None:
    process, pids = parent("guard", "policy", patience=30.0)  # those who obey need none of it
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert lines(diary)[2:] == ["policy SIGINT", "guard SIGINT"]
    assert not any(alive(pid) for pid in pids)
    assert all(os.getpgid(0) != pid for pid in pids)


def test_shared_memory_is_removed_when_its_owner_is_gone_and_kept_while_it_lives(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shared_memory, "SETTLED", 0.0)
    for digit in "0123":
        (tmp_path / f"fastdds_{digit * 16}").write_bytes(b"segment")
        (tmp_path / f"fastdds_{digit * 16}_el").touch()
    (tmp_path / "fastdds_port7413_el").touch()
    with (tmp_path / f"fastdds_{'2' * 16}_el").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert shared_memory.remove_dead_segments(tmp_path) == 3
        kept = {f"fastdds_{'2' * 16}", f"fastdds_{'2' * 16}_el", "fastdds_port7413_el"}
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert shared_memory.remove_dead_segments(tmp_path) == 1


def test_an_unbuilt_workspace_is_named_with_its_remedy(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(EnvironmentMissingError, match="make ros"):
        installed_executable(NodeSpec("policy", "policy"))
