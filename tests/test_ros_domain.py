"""Two test runs on one machine never meet in a ROS domain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simpl.faults import ros_domain
from simpl.faults.ros_domain import DOMAINS, RosDomain

TAKE_ALL = """
from simpl.faults import ros_domain
ros_domain.DOMAINS = ros_domain.DOMAINS[:3]
import itertools
ros_domain._CANDIDATES = itertools.cycle(ros_domain.DOMAINS)
held = [ros_domain.RosDomain() for _ in range(3)]
print("held", flush=True)
input()
"""


def test_a_domain_is_taken_once_until_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_domain.tempfile, "gettempdir", lambda: str(tmp_path))
    held = [RosDomain() for _ in DOMAINS]
    assert sorted(domain.number for domain in held) == list(DOMAINS)
    with pytest.raises(RuntimeError, match="hold all ROS domains from 50 to 99"):
        RosDomain()
    held[7].release()
    assert RosDomain().number == held[7].number


def test_another_process_holds_its_domains_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_domain.tempfile, "gettempdir", lambda: str(tmp_path))
    other = subprocess.Popen(
        [sys.executable, "-c", TAKE_ALL],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(ros_domain.__file__).parent), "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    mine = [RosDomain() for _ in DOMAINS[3:]]
    assert not {domain.number for domain in mine} & set(DOMAINS[:3])
    other.kill()
    other.communicate()
    assert RosDomain().number in DOMAINS[:3], "a killed run holds nothing"
    for domain in mine:
        domain.release()
