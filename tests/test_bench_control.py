"""`simpl bench onnx` and `simpl bench control`: that they measure what they say. No figure of time is asserted."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simpl.front.bench_command import BenchControl, BenchOnnx, run_bench_control, run_bench_onnx
from simpl.front.bench_numbers import cpu_seconds, quantiles, split
from simpl_core.errors import BundleError, ConfigError


def test_quantiles_are_medians_over_blocks_so_that_one_bad_moment_does_not_count() -> None:
    good = np.linspace(0.001, 0.002, 101)
    found = quantiles([good, good, good + 1.0, []])
    assert found is not None
    np.testing.assert_allclose(found, (1.5, 1.99, 303))
    assert quantiles([[], []]) is None


def test_a_measurement_is_split_by_time_and_what_came_before_or_after_is_left_out() -> None:
    blocks = split([9.9, 10.0, 11.9, 12.0, 19.9, 20.0], [0, 1, 2, 3, 4, 5], 10.0, 20.0)
    assert [list(block) for block in blocks] == [[1, 2], [3], [], [], [4]]


def test_processor_time_is_that_of_the_process() -> None:
    before, own = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert 0.05 < cpu_seconds(os.getpid()) - before < 0.05 + 2.0 * (time.process_time() - own)


def test_the_networks_of_a_bundle_are_timed(random_bundle: Path) -> None:
    out = io.StringIO()
    assert run_bench_onnx(BenchOnnx(random_bundle, calls=20, json=True), Console(file=out)) == 0
    found = json.loads(out.getvalue())
    assert set(found) == {"skill_decoder", "skill_policy", "both", "both_paced"}
    assert found["both"]["count"] == 100
    assert all(0.0 < one["p50"] <= one["p99"] for one in found.values())
    out = io.StringIO()
    run_bench_onnx(BenchOnnx(random_bundle, calls=20), Console(file=out, width=100))
    assert "skill decoder" in out.getvalue()


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--calls is 0"):
        run_bench_onnx(BenchOnnx(calls=0))
    with pytest.raises(ConfigError, match="--seconds is 0"):
        run_bench_control(BenchControl(seconds=0.0))
    with pytest.raises(BundleError):
        run_bench_onnx(BenchOnnx(tmp_path))


@pytest.mark.slow
def test_policy_and_guard_are_measured_beside_an_echo_and_a_timer(random_bundle: Path, monkeypatch) -> None:
    pytest.importorskip("rclpy")
    pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")
    from simpl.faults.ros_domain import RosDomain
    from simpl.front.bench_control import run_control

    domain = RosDomain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.number))
    out = io.StringIO()
    assert run_bench_control(BenchControl(seconds=6.0, bundle=random_bundle, json=True), Console(file=out)) == 0
    found = json.loads(out.getvalue())
    control, slow = found["control"], found["control_at_50_hz"]
    # A starved machine may hear little; whatever it hears is a time that passed.
    for one in (*control["joint_state_to_ms"].values(), *slow["joint_state_to_ms"].values()):
        assert one is None or 0.0 < one["p50"] <= one["p99"]
    assert control["ticks"]["policy"]["ticks"] > 0 and control["ticks"]["timer"]["ticks"] > 0
    assert slow["joint_state_to_ms"]["echo"] is None and slow["ticks"]["timer"]["ticks"] == 0
    assert 0.0 < slow["share_of_one_core"]["together"] < 2.0
    with pytest.raises(BundleError, match="acts at 12.5 Hz"):
        run_control(random_bundle, 40.0, 1.0)
    domain.release()
