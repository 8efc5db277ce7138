"""What runs every control node: for as long as it takes, and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simpl.core.policy_loop import LoadedModel
from simpl.front import bench_control, monitor
from simpl.nodes import arm_sim, franka_fci, guard, policy, running

LOOPBACK = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def test_a_node_goes_on_after_a_spin_that_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor's longest wait is eleven days; a guard must not end after it, and with status 0."""
    spins: list[float] = []

    def spin(future: Any, timeout_sec: float) -> None:
        spins.append(timeout_sec)
        if len(spins) == 3:
            ending.request(running.FAILED)

    executor = SimpleNamespace(add_node=lambda _: None, wake=lambda: None, spin_until_future_complete=spin)
    monkeypatch.setattr(running, "new_executor", lambda: executor)
    monkeypatch.setattr(running.rclpy, "ok", lambda: True)
    ended: list[str] = []
    node = SimpleNamespace(close=lambda: ended.append("close"), destroy_node=lambda: ended.append("destroy"))
    ending = running.Ending()
    assert running._run(lambda _: node, ending) == running.FAILED
    assert len(spins) == 3 and ended == ["close", "destroy"]


def test_nodes_that_announce_themselves_late_are_seen_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon of somebody's is heard first: our names may be taken all the same."""
    heard = [("daemon", "/")]

    class Node:
        def __init__(self, name: str, **_: Any) -> None:
            self.name = name

        def get_name(self) -> str:
            return self.name

        def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
            return [(self.name, "/"), *heard]

        def destroy_node(self) -> None:
            pass

    monkeypatch.setattr(monitor, "Node", Node)
    monkeypatch.setattr(monitor.time, "sleep", lambda _: heard.append(("guard", "/left")))
    assert monitor.running_nodes(46) == ["/daemon", "/left/guard"]


def test_a_range_of_numbers_is_one_of_floats() -> None:
    """Messages of older distributions take nothing else, and a guard would not start there."""
    declared: list[Any] = []

    def declare_parameter(_: str, default: Any, descriptor: Any) -> Any:
        declared.append(descriptor)
        return SimpleNamespace(value=default)

    node: Any = SimpleNamespace(declare_parameter=declare_parameter)
    assert running.declare(node, "zero_repeat", 0.1, "seconds", between=(0, 10)) == 0.1
    (limits,) = declared[0].floating_point_range
    assert [type(limits.from_value), type(limits.to_value)] == [float, float]


def test_where_there_is_no_real_time_priority_a_node_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setscheduler")
    assert running.set_priority(3) == "this system knows none" and running.set_priority(0) == ""


def test_an_arm_goes_before_its_guard_and_the_guard_before_the_policy() -> None:
    assert 0 < policy._PRIORITY < guard._PRIORITY < arm_sim._PRIORITY <= bench_control.PLANT_PRIORITY
    assert franka_fci._PRIORITY == arm_sim._PRIORITY


def test_a_driver_takes_its_priority_before_it_opens_the_arm() -> None:
    """Threads that the arm's library starts inherit it."""
    program = """
from simpl.core.fci_arm import ArmLostError
from simpl.nodes import franka_fci, running
done = []
def arm(*_):
    done.append("the arm")
    raise ArmLostError("enough was seen")
running.set_priority = lambda priority: done.append(priority) or ""
franka_fci.FrankyConnection = arm
assert franka_fci.main(["--ros-args", "-p", "robot_ip:=127.0.0.1", "-p", "priority:=9"]) == running.USER_ERROR
assert done == [9, "the arm"], done
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **LOOPBACK})


@pytest.mark.parametrize(("acting", "kind"), [("", "info"), ("float64", "info"), ("float32", "warning")])
def test_a_model_that_computes_otherwise_than_the_one_that_acts_is_told_of(acting: str, kind: str) -> None:
    done: list[tuple[str, object]] = []
    model = LoadedModel(runner=None, version="0123456789abcdef", e_dim=1, action_scale=[1.0], arithmetic="float64")  # type: ignore[arg-type]
    node: Any = SimpleNamespace(
        _loop=SimpleNamespace(
            stage=lambda staged: done.append(("stage", staged)), status=lambda: SimpleNamespace(arithmetic=acting)
        ),
        get_logger=lambda: SimpleNamespace(
            info=lambda line: done.append(("info", line)), warning=lambda line: done.append(("warning", line))
        ),
    )
    policy.PolicyNode._stage(node, model)
    assert done[0] == ("stage", model) and [one for one, _ in done] == ["stage", kind]
    assert "model 0123456789ab" in str(done[1][1]) and "computes in float64" in str(done[1][1])
    assert ("the model that acts in float32" in str(done[1][1])) == (kind == "warning")


def test_real_time_priority_is_taken_by_all_threads_or_refused_with_a_reason() -> None:
    """In a process of its own: these tests shall not get in anybody's way."""
    program = """
import os, pathlib, threading
from simpl.nodes.running import set_priority
threading.Thread(target=threading.Event().wait, daemon=True).start()
refused = set_priority(3)
found = {os.sched_getscheduler(int(one.name)) for one in pathlib.Path("/proc/self/task").iterdir()}
assert found == {os.SCHED_FIFO} or refused, (found, refused)
assert not set_priority(0) and os.sched_getscheduler(0) == os.SCHED_OTHER
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_profile_of_the_documents_keeps_nodes_out_of_shared_memory(tmp_path: Path) -> None:
    """In a network of its own, which ends here. With the discovery range of every day a profile changes nothing."""
    text = (Path(__file__).parents[1] / "docs" / "robot.md").read_text()
    profile = tmp_path / "udp.xml"
    profile.write_text(textwrap.dedent(text[text.index("    <?xml") : text.index("</profiles>")] + "</profiles>\n"))
    program = """
import rclpy
rclpy.init()
node = rclpy.create_node("looked_at")
print(any("/dev/shm/fastdds" in line for line in open("/proc/self/maps")))
rclpy.shutdown()
"""
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", program]
    if subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    for reach, uses_shared_memory in (("SUBNET", "False"), ("LOCALHOST", "True")):
        settings = {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile), "ROS_AUTOMATIC_DISCOVERY_RANGE": reach}
        found = subprocess.run(alone, check=True, capture_output=True, text=True, env={**os.environ, **settings})
        assert found.stdout.strip() == uses_shared_memory, reach


def test_what_loads_models_comes_after_the_loop_that_started_it() -> None:
    program = """
import os
from concurrent.futures import ThreadPoolExecutor
from simpl.nodes.running import set_priority, step_back
refused = set_priority(3)
with ThreadPoolExecutor(1, initializer=step_back) as worker:
    theirs = worker.submit(lambda: os.sched_getparam(0).sched_priority).result()
ours = os.sched_getparam(0).sched_priority
print("refused" if refused else f"{theirs} {ours}")
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    if found.stdout.strip() == "refused":
        pytest.skip("this system grants no real-time priority")
    assert found.stdout.strip() == "1 3"
