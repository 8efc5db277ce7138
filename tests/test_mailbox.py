"""Mailboxes: what has come is there when somebody looks, and wakes nobody up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("simpl_interfaces", reason="the ROS workspace is not built: make ros")

from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.publisher import Publisher  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from simpl.faults.ros_domain import RosDomain  # noqa: E402
from simpl.interfaces import JOINT_STATES, OBJECT_STATES  # noqa: E402
from simpl.nodes.mailbox import DEPTH, Mailbox, Recipient  # noqa: E402
from simpl.nodes.running import new_executor  # noqa: E402

PATIENCE = 10.0


@pytest.fixture
def context() -> Iterator[Context]:
    domain, context = RosDomain(), Context()
    rclpy.init(context=context, domain_id=domain.number)
    yield context
    rclpy.shutdown(context=context)
    domain.release()


@pytest.fixture
def recipient(context: Context) -> Iterator[Recipient]:
    node = Recipient("recipient", context=context)
    yield node
    node.destroy_node()


@pytest.fixture
def driver(context: Context) -> Iterator[Node]:
    node = Node("driver", context=context)
    yield node
    node.destroy_node()


def connected(driver: Node, topic: Any = JOINT_STATES) -> Publisher:
    publisher = topic.publisher(driver)
    give_up = time.monotonic() + PATIENCE
    while not publisher.get_subscription_count() and time.monotonic() < give_up:
        time.sleep(0.01)
    return publisher


def say(publisher: Publisher, first: int, last: int, pause: float = 0.0) -> None:
    for number in range(first, last):
        publisher.publish(JointState(name=[str(number)]))
        time.sleep(pause)


def read(mailbox: Mailbox, wanted: int) -> list[tuple[str, float]]:
    """What a look finds, once `wanted` is there."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        news = [(message.name[0], at) for message, at in mailbox.news()]
        if news and news[0][0] == str(wanted):
            return news
        time.sleep(0.05)
    raise AssertionError(f"{wanted} has not come")


def test_the_newest_comes_first_and_older_ones_than_fit_are_gone(recipient: Recipient, driver: Node) -> None:
    mailbox = recipient.mailbox(JOINT_STATES)
    publisher = connected(driver)
    say(publisher, 0, DEPTH + 5)
    time.sleep(0.5)
    assert [name for name, _ in read(mailbox, DEPTH + 4)] == [str(n) for n in range(DEPTH + 4, 4, -1)]
    assert not list(mailbox.news()), "read once"


def test_a_message_counts_from_when_it_came(recipient: Recipient, driver: Node) -> None:
    mailbox = recipient.mailbox(JOINT_STATES)
    publisher = connected(driver)
    before = time.monotonic()
    say(publisher, 0, 3, pause=0.1)
    said = time.monotonic()
    time.sleep(0.5)  # nobody looks
    arrivals = [at for _, at in read(mailbox, 2)]
    assert before <= arrivals[2] < arrivals[1] < arrivals[0] <= said
    assert 0.05 < arrivals[0] - arrivals[1] < 0.4


def test_a_clock_that_was_set_makes_no_message_older_than_the_last_look(
    recipient: Recipient, driver: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = recipient.mailbox(JOINT_STATES)
    publisher = connected(driver)
    list(mailbox.news())
    looked = time.monotonic()
    say(publisher, 0, 1)
    time.sleep(0.3)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
    ((_, ahead),) = read(mailbox, 0)
    assert looked - 0.1 < ahead < time.monotonic() - 0.2
    say(publisher, 1, 2)
    time.sleep(0.3)
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
    ((_, behind),) = read(mailbox, 1)
    assert behind <= time.monotonic(), "not from the future"


def test_nobody_is_woken_up(recipient: Recipient, driver: Node) -> None:
    """The executor serves the one topic and leaves the other's messages where they are."""
    mailbox, heard = recipient.mailbox(JOINT_STATES), []
    OBJECT_STATES.subscription(recipient, heard.append)
    assert [subscription.topic_name for subscription in recipient.subscriptions] == ["/object_states"]
    executor = new_executor(context=recipient.context)
    executor.add_node(recipient)
    arm, objects = connected(driver), connected(driver, OBJECT_STATES)
    say(arm, 0, 3)
    give_up = time.monotonic() + PATIENCE
    while not heard and time.monotonic() < give_up:
        say(objects, 0, 1)
        executor.spin_once(timeout_sec=0.1)
    assert heard
    assert [name for name, _ in read(mailbox, 2)] == ["2", "1", "0"]
