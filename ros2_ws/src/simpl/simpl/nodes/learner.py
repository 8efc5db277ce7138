"""Node `learner`: stores the transitions it receives, fine-tunes on them, and publishes new models.

See `simpl.core.learner_session`. It may run on another machine than the arm, and may die at any moment.
"""

from __future__ import annotations

import json
import math
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from rclpy.node import Node
from simpl_interfaces.msg import LearnerStatus, TransitionAck
from simpl_interfaces.msg import ModelUpdate as ModelUpdateMessage
from simpl_interfaces.msg import Transition as TransitionMessage

from export.bundle import Bundle
from simpl import interfaces
from simpl.conversions import from_transition, header, to_bundle_files
from simpl.core import health
from simpl.core.journal import JournalError
from simpl.core.learner_session import LearnerSession
from simpl.core.model_store import ModelUpdate
from simpl.core.transition import TransitionError
from simpl.nodes.diagnostics import Diagnostics
from simpl.nodes.logs import RosHandler
from simpl.nodes.running import FAILED, STEADY, Ending, declare, run_node
from simpl_core.config import ADAPT_PRESETS
from simpl_core.errors import ConfigError, SimplError

ACK_PERIOD = 0.05
"""Transitions of this time share one wait for the disk [s]."""
STATUS_PERIOD = 1.0
POLL = 0.2


class LearnerNode(Node):
    """Receives on the executor's thread, trains on another.

    Args:
        ending: told when the node cannot go on.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__("learner")
        self._ending = ending
        self._log = RosHandler(self)
        bundle = declare(self, "bundle", "", "folder of the model bundle the run starts from")
        run_folder = declare(self, "run_folder", "", "the learner writes below this folder")
        preset = declare(self, "preset", "fast", f"settings of fine-tuning: {', '.join(ADAPT_PRESETS)}")
        seed = declare(self, "seed", 0, "of batches and noise", between=(0, 2**31 - 1))
        threads = declare(self, "threads", 1, "threads for the arithmetic", between=(1, 256))
        for name, value in (("bundle", bundle), ("run_folder", run_folder)):
            if not value:
                raise ConfigError(f"parameter '{name}' is empty; the learner needs it")
        if preset not in ADAPT_PRESETS:
            raise ConfigError(f"preset is '{preset}'; there are {', '.join(ADAPT_PRESETS)}")
        torch.set_num_threads(threads)
        folder = Path(run_folder) / "learner"
        self._session = LearnerSession(Bundle.open(bundle), folder, ADAPT_PRESETS[preset], seed)
        self._acks = interfaces.TRANSITIONS_ACK.publisher(self)
        self._models = interfaces.MODEL_UPDATE.publisher(self)
        self._status = interfaces.LEARNER_STATUS.publisher(self)
        self._phase = "waiting"
        self._complained_at = -math.inf
        self._complaint = ""
        newest = self._session.newest_model()
        if newest is not None:
            self._publish(newest)
        interfaces.TRANSITIONS.subscription(self, self._on_transition)
        self.create_timer(ACK_PERIOD, self._acknowledge, clock=STEADY)
        self.create_timer(STATUS_PERIOD, self._publish_status, clock=STEADY)
        Diagnostics(self, "training", self._health)
        self._publish_status()
        self._trainer = threading.Thread(target=self._train_forever, name="training", daemon=True)
        self._trainer.start()

    def close(self) -> None:
        """Let a gradient step or an export come to its end if it does so soon, then flush."""
        self._session.stopping.set()
        self._trainer.join(timeout=3.0)
        self._session.close()
        self._log.close()

    def _on_transition(self, message: TransitionMessage) -> None:
        try:
            self._session.receive(from_transition(message))
        except (JournalError, TransitionError) as error:
            self._complain(str(error))

    def _acknowledge(self) -> None:
        try:
            acknowledgements = self._session.acknowledge()
        except JournalError as error:
            # What the kernel still holds cannot be trusted after a failed fsync: started again, we read what is there.
            self.get_logger().fatal(str(error))
            self._ending.request(FAILED)
            return
        for ack in acknowledgements:
            self._acks.publish(TransitionAck(**ack._asdict()))

    def _train_forever(self) -> None:
        """The training thread: an error in one update must not end the storing of transitions."""
        while not self._session.stopping.is_set():
            try:
                before = self._session.progress.considered
                model = self._session.train(POLL, self._on_phase)
                if model is not None:
                    self._publish(model)
                if self._session.progress.considered != before:
                    self._publish_status()
            except SimplError as error:
                self._complain(f"no new model: {error}")
            except Exception:  # noqa: BLE001  a learner that cannot train any more is started again by whoever started it
                self.get_logger().fatal(traceback.format_exc())
                self._ending.request(FAILED)
                return

    def _on_phase(self, phase: str) -> None:
        self._phase = phase
        self._publish_status()

    def _publish(self, model: ModelUpdate) -> None:
        message = ModelUpdateMessage(header=header(self.get_clock().now().nanoseconds))
        message.model_version, message.parent_version = model.model_version, model.parent_version
        message.manifest_json, message.trained_on = model.manifest_json, model.trained_on
        message.files = to_bundle_files(model.files)
        self._models.publish(message)

    def _publish_status(self) -> None:
        session = self._session
        message = LearnerStatus(header=header(self.get_clock().now().nanoseconds), state=self._phase)
        message.stored, message.duplicates = session.store.stored, session.store.duplicates
        message.updates, message.gradient_steps = session.progress.updates, session.progress.gradient_steps
        # In this order: a newer version beside older counts is waited for, an older one would pass for "no model came".
        message.metrics_json = json.dumps(session.status())
        message.model_version = session.progress.model_version
        self._status.publish(message)

    def _health(self) -> health.Health:
        session, complaint = self._session, self._complaint
        self._complaint = ""
        counts = {
            "stored": session.store.stored,
            "duplicates": session.store.duplicates,
            "gradient steps": session.progress.gradient_steps,
            "model": session.progress.model_version,
        }
        return health.of_learner(self._phase, complaint, counts)

    def _complain(self, text: str) -> None:
        self._complaint = text
        now = time.monotonic()
        if now - self._complained_at > 1.0:
            self._complained_at = now
            self.get_logger().error(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the executable `learner`."""
    return run_node(LearnerNode, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
