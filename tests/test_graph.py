"""The node graph as data: what is started, with which parameters, and what a wrong setting says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sim.tasks import is_unseen, parse_kitchen_task
from simpl.front.preflight import choose_domain, prepare_run_folder
from simpl.front.run_report import PHASE_KEYS
from simpl.graph import (
    DEFAULT_TASK,
    STOP_ORDER,
    AdaptSettings,
    NodeSpec,
    acting_graph,
    adapt_graph,
    render_parameters,
    stop_rank,
)
from simpl_core.errors import ConfigError, TaskError

BUNDLE, RUN = Path("/bundles/kitchen"), Path("/runs/1")


def graph(**settings: object) -> dict[str, NodeSpec]:
    return {spec.name: spec for spec in adapt_graph(AdaptSettings(**settings), BUNDLE, RUN)}


def test_the_default_task_was_in_no_training_set() -> None:
    assert is_unseen(parse_kitchen_task(DEFAULT_TASK))


def test_the_graph_has_the_five_nodes_and_only_the_learner_is_started_again() -> None:
    nodes = graph()
    assert set(nodes) | {"franka_fci"} == {name for names in STOP_ORDER for name in names}
    assert [name for name, spec in nodes.items() if spec.respawn] == ["learner"]
    assert [name for name, spec in nodes.items() if spec.ends_run] == ["bridge"]


def test_everybody_agrees_on_time_and_bundle_and_writes_below_the_run_folder() -> None:
    for rate, lockstep in (("sim", True), ("real", False)):
        nodes = graph(rate=rate)
        timed = {name: spec.parameters["lockstep"] for name, spec in nodes.items() if "lockstep" in spec.parameters}
        assert timed == dict.fromkeys(("arm_sim", "guard", "policy", "bridge"), lockstep)
    assert {nodes[name].parameters["bundle"] for name in ("policy", "bridge", "learner")} == {str(BUNDLE)}
    assert {nodes[name].parameters["run_folder"] for name in ("bridge", "learner")} == {str(RUN)}
    assert nodes["arm_sim"].parameters["output_folder"] == "/runs/1/plant"


def test_the_bridge_is_told_what_the_user_asked_for() -> None:
    nodes = graph(task="Kettle,microwave", conditioning=3, evaluation=2, episodes=5, seed=7, max_steps=40)
    bridge = nodes["bridge"].parameters
    counts = [bridge[f"{phase}_episodes"] for phase in ("conditioning", "evaluation", "finetune", "final")]
    assert counts == [3, 2, 5, 2]
    assert (bridge["task"], bridge["seed"], bridge["max_steps"]) == ("kettle > microwave", 7, 40)
    assert nodes["policy"].parameters["max_steps"] == 40


def test_without_the_simulated_arm_a_driver_takes_its_place_on_the_wall_clock() -> None:
    assert "arm_sim" not in graph(use_sim=False, rate="real")
    with pytest.raises(ConfigError, match="no real arm"):
        AdaptSettings(use_sim=False)


def test_only_a_real_arm_of_ros2_control_is_asked_for_its_controller() -> None:
    for settings in ({}, {"use_sim": False, "rate": "real"}):
        assert graph(**settings)["guard"].parameters["controller_manager"] == ""
    own = {"use_sim": False, "rate": "real", "profile": "iiwa14", "controller_manager": "/left/controller_manager"}
    assert graph(**own)["guard"].parameters["controller_manager"] == "/left/controller_manager"


def test_a_namespace_is_given_to_every_node() -> None:
    assert {spec.namespace for spec in graph(namespace="/lab/left").values()} == {"lab/left"}


def test_a_real_arm_brings_its_profile_topics_and_driver_to_every_node_that_needs_them() -> None:
    settings = AdaptSettings(use_sim=False, rate="real", profile="franka_fr3", driver="franka_fci", robot_ip="10.0.0.2")
    specs = {spec.name: spec for spec in adapt_graph(settings, BUNDLE, RUN)}
    assert set(specs) == {"franka_fci", "guard", "policy", "learner", "bridge"}
    profiles = {specs[name].parameters["profile"] for name in ("franka_fci", "guard", "policy")}
    assert len(profiles) == 1 and Path(profiles.pop()).name == "franka_fr3.yaml"
    assert specs["franka_fci"].parameters["robot_ip"] == "10.0.0.2"
    assert all(spec.remappings == (("joint_states", "franka/joint_states"),) for spec in specs.values())
    assert stop_rank(specs["franka_fci"]) > stop_rank(specs["guard"])
    without = acting_graph(AdaptSettings(use_sim=False, rate="real", profile="iiwa14"), BUNDLE, None)
    assert [spec.name for spec in without] == ["guard", "policy"]
    assert without[0].parameters["controller_manager"] == "/controller_manager", "nobody else says whether it is active"
    assert specs["guard"].parameters["controller_manager"] == "", "our driver needs no controller"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"profile": "franka_fr3"}, "the simulated arm is mujoco_kitchen"),
        ({"driver": "franka_fci", "robot_ip": "10.0.0.2"}, "the simulated arm is mujoco_kitchen"),
        ({"use_sim": False, "rate": "real", "driver": "franka_fci"}, "a driver needs an address"),
        ({"use_sim": False, "rate": "real", "robot_ip": "10.0.0.2"}, "a driver needs an address"),
        ({"use_sim": False, "rate": "real", "driver": "kuka"}, "there are none, franka_fci"),
    ],
)
def test_an_impossible_robot_is_named(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptSettings(**settings)


def test_the_small_graph_records_only_where_it_is_told_to() -> None:
    specs = {spec.name: spec for spec in acting_graph(AdaptSettings(), BUNDLE, None)}
    assert set(specs) == {"arm_sim", "guard", "policy"}
    assert specs["arm_sim"].parameters["output_folder"] == ""


def test_actors_stop_first_and_the_plant_last() -> None:
    rank = {name: stop_rank(spec) for name, spec in graph().items()}
    assert rank["policy"] == rank["bridge"] < rank["guard"] < rank["learner"] < rank["arm_sim"]
    assert stop_rank(NodeSpec("camera", "camera")) > rank["arm_sim"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": -1}, "--episodes is -1"),
        ({"conditioning": 0}, "--conditioning is 0; it must be at least 1"),
        ({"max_steps": 0}, "--max-steps is 0"),
        ({"rate": "fast"}, "there are sim, real"),
        ({"namespace": "left arm"}, "write it as 'left_arm'"),
    ],
)
def test_an_impossible_setting_says_what_is_possible(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptSettings(**settings)


def test_a_wrong_task_is_refused_before_anything_starts() -> None:
    with pytest.raises(TaskError, match="did you mean 'kettle'"):
        AdaptSettings(task="ketle > microwave")


def test_parameters_keep_value_and_type_through_the_parameter_file() -> None:
    parameters = {
        "text": "it's 1e3: yes > no",
        "looks_true": "true",
        "count": 3,
        "flag": True,
        "tiny": 1e-5,
        "huge": 1e22,
        "half": 0.5,
        "names": ["a", "b'c"],
        "numbers": [0.1, 2e-7],
    }
    text = render_parameters(NodeSpec("n", "n", parameters))
    read = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert read == parameters
    assert {name: type(value) for name, value in read.items()} == {name: type(v) for name, v in parameters.items()}


def test_a_node_without_parameters_needs_no_file_and_nan_is_refused() -> None:
    assert render_parameters(NodeSpec("n", "n")) == ""
    with pytest.raises(ConfigError, match="parameter speed is nan"):
        render_parameters(NodeSpec("n", "n", {"speed": float("nan")}))


def test_the_graph_is_read_without_ros_torch_or_mujoco() -> None:
    code = "import simpl.graph, sys; print([m for m in ('rclpy', 'torch', 'mujoco', 'launch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- where a run goes ----------------------------------------------------------------------------------------------


def test_a_run_takes_domain_0_where_any_ros2_command_line_looks(monkeypatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    assert choose_domain(list(graph().values()), lambda domain: ["/rviz"]) == (0, [])


def test_a_second_run_makes_room_and_says_where_it_is(monkeypatch) -> None:
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    specs = list(graph().values())
    domain, notes = choose_domain(specs, lambda domain: ["/guard"] if domain < 2 else [])
    assert domain == 2
    assert "export ROS_DOMAIN_ID=2" in notes[0]
    assert choose_domain(list(graph(namespace="b").values()), lambda domain: ["/guard"])[0] == 0


def test_a_domain_that_the_user_names_is_never_changed(monkeypatch) -> None:
    specs = list(graph().values())
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert choose_domain(specs, lambda domain: []) == (7, [])
    with pytest.raises(ConfigError, match="in ROS domain 7 there are nodes already called /guard, /policy"):
        choose_domain(specs, lambda domain: ["/policy", "/guard", "/other"])
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    with pytest.raises(ConfigError, match="0 to 232"):
        choose_domain(specs, lambda domain: [])


def test_a_run_folder_is_new_and_writable(tmp_path, monkeypatch) -> None:
    assert prepare_run_folder(tmp_path / "a" / "b").is_dir()
    done = tmp_path / "done"
    done.mkdir()
    report = {"task": "kettle", "control": {}, "interrupted": True}
    report |= {key: [] for key in PHASE_KEYS.values()}
    (done / "report.json").write_text(json.dumps(report))
    assert prepare_run_folder(done) == done, "an interrupted run is continued"
    (done / "report.json").write_text(json.dumps(report | {"interrupted": False}))
    with pytest.raises(ConfigError, match="holds a finished run"):
        prepare_run_folder(done)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        prepare_run_folder(tmp_path / "file" / "run")
    monkeypatch.chdir(tmp_path)
    assert prepare_run_folder(None).parent == tmp_path / "runs" / "adapt"
