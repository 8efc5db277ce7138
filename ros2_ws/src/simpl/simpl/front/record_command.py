"""`simpl record` and `simpl replay`: what was said on the topics, to a file and back."""

from __future__ import annotations

import importlib.util
import json
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from simpl import runtime_env
from simpl.core.profile import load_profile
from simpl.core.profile_files import find_profile
from simpl.graph import SIMULATED
from simpl_core.errors import ConfigError, EnvironmentMissingError

if TYPE_CHECKING:
    from simpl.core.recording import Recorded

DISCOVERY = 3.0
"""Longest wait for somebody to listen to each topic before the first message [s]."""


@dataclass(frozen=True)
class RecordSettings:
    """Record the graph's topics to an MCAP file until Ctrl-C; Foxglove, ros2 bag and PlotJuggler open it.

    Example: simpl record run1.mcap --profile franka_fr3
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """File to write, which must not exist; runs/recordings/<time>.mcap when not given."""
    topics: tuple[str, ...] = ()
    """Topics to record, also others' than ours; all of the graph but model_update when not given."""
    namespace: str = ""
    """ROS namespace of the graph."""
    profile: str = SIMULATED
    """Robot profile of the graph, which may call its topics otherwise: a name, or a path that ends in .yaml."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_record(self)


@dataclass(frozen=True)
class ReplaySettings:
    """Publish a recording's messages again, at the pace at which they came, or print them.

    They are published below a namespace of their own, so that no arm hears old commands.

    Example: simpl replay run1.mcap --topics /guard/state --print
    """

    file: Annotated[Path, tyro.conf.Positional]
    """MCAP file of ROS 2 messages."""
    topics: tuple[str, ...] = ()
    """Topics by their recorded names; all when not given."""
    rate: float = 1.0
    """Factor on the pace; 0: no pauses."""
    namespace: str = "replay"
    """Before each recorded name. Empty: the recorded names themselves, which a running arm may obey."""
    print: bool = False
    """Print one JSON line for each message instead of publishing it."""

    def run(self) -> int:
        """Do it; the process's exit status."""
        return run_replay(self)


def run_record(settings: RecordSettings) -> int:
    """Record until a signal; the exit status."""
    runtime_env.prepare()
    check_mcap()
    from simpl.nodes.record import main

    file = (
        (settings.file or Path("runs") / "recordings" / time.strftime("%Y-%m-%d_%H-%M-%S.mcap")).expanduser().absolute()
    )
    arguments = ["--ros-args", "-p", f"output:={file}"]
    if settings.topics:
        arguments += ["-p", f"topics:={json.dumps(settings.topics)}"]
    if settings.namespace:
        arguments += ["-r", f"__ns:=/{settings.namespace.strip('/')}"]
    for ours, theirs in load_profile(find_profile(settings.profile)).remappings:
        arguments += ["-r", f"{ours}:={theirs}"]
    return main(arguments)


def run_replay(settings: ReplaySettings, console: Console | None = None) -> int:
    """Replay a file; 0 when its end was reached.

    Raises:
        SimplError: the file cannot be read, or holds messages of types that are not installed.
    """
    check_mcap()
    console = console or Console()
    if settings.rate < 0.0:
        raise ConfigError(f"--rate is {settings.rate:g}; it must not be negative")
    if settings.print:
        for line in lines(settings.file, settings.topics):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        return 0
    runtime_env.prepare()
    counts = publish(settings.file, settings.topics, settings.namespace.strip("/"), settings.rate)
    console.print(", ".join(f"{topic} {count}" for topic, count in sorted(counts.items())) or "no message")
    return 0


def check_mcap() -> None:
    """Raises EnvironmentMissingError when recordings can be neither written nor read; says how to get there."""
    if importlib.util.find_spec("mcap") is None:
        raise EnvironmentMissingError("recordings need the package mcap: pip install 'simpl-core[record]'")


def lines(file: Path, topics: Sequence[str]) -> Iterator[str]:
    """Each message as a line of JSON: time [s], topic, type, content."""
    from rclpy.serialization import deserialize_message

    from simpl.definitions import message_class

    for one in _read(file, topics):
        content = plain(deserialize_message(one.data, message_class(one.type)))
        yield json.dumps({"time": one.stamp * 1e-9, "topic": one.topic, "type": one.type, "message": content})


def publish(file: Path, topics: Sequence[str], namespace: str, rate: float) -> Counter[str]:
    """Publish messages below `namespace`, `rate` times as fast as they came; how many, by recorded topic."""
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    types = {one.topic: one.type for one in _read(file, topics)}
    counts: Counter[str] = Counter()
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("replay", context=context, enable_rosout=False, start_parameter_services=False)
    try:
        publishers = {topic: _publisher(node, topic, kind, namespace) for topic, kind in types.items()}
        deadline = time.monotonic() + DISCOVERY
        while time.monotonic() < deadline and not all(one.get_subscription_count() for one in publishers.values()):
            time.sleep(0.05)
        begin, first = time.monotonic(), None
        for one in _read(file, topics):
            first = one.stamp if first is None else first
            if rate > 0.0:
                time.sleep(max(0.0, begin + (one.stamp - first) * 1e-9 / rate - time.monotonic()))
            publishers[one.topic].publish(one.data)
            counts[one.topic] += 1
        for publisher in publishers.values():
            publisher.wait_for_all_acked()
    finally:
        node.destroy_node()
        context.try_shutdown()
    return counts


def _publisher(node: Any, topic: str, kind: str, namespace: str) -> Any:
    """As the graph's own publisher of that name, if it has one."""
    from simpl import interfaces
    from simpl.definitions import message_class

    ours = (one.writer for one in interfaces.TOPICS if topic.endswith(f"/{one.name.strip('/')}"))
    name = f"/{namespace}{topic}" if namespace else topic
    return node.create_publisher(message_class(kind), name, next(ours, interfaces.STREAM))


def _read(file: Path, topics: Sequence[str]) -> Iterator[Recorded]:
    from simpl.core.recording import read_recording

    return (one for one in read_recording(file) if not topics or one.topic in topics)


def plain(value: Any) -> Any:
    """A message, or what is in one, as JSON has it; bytes by their number only."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, array) and value.typecode == "B":
        return f"{len(value)} bytes"
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        return [plain(item) for item in value]
    return str(value)
