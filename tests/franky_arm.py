"""An FR3 on the loopback for tests: franky-sim, with the reflexes that it lacks. `python franky_arm.py`.

SIGUSR1 triggers a reflex: the motion under way is aborted, the arm says so in its state and takes no motion until its
error recovery is asked for. SIGTERM ends it.
"""

from __future__ import annotations

import signal
import sys

import franky_sim
from franky_sim import franka_robot_protocol as protocol
from franky_sim import simulation_server
from franky_sim.franka_robot_server import FrankaRobotServer
from franky_sim.mujoco_simulator import MujocoSimulator

PRESSED = []
_move = protocol.MoveCommand.handle


class Arm(FrankaRobotServer):
    """Adds reflexes to the simulated arm."""

    in_reflex = False

    def process_commands(self):
        super().process_commands()
        if PRESSED:
            PRESSED.clear()
            motion, self.in_reflex = self.current_motion_id, True
            self.stop_motion(send_preemption_signal=False)
            if motion:
                answer = protocol.MoveStatus.kReflexAborted
                protocol.BaseCommand.send_response(self._tcp_socket, protocol.RobotCommand.kMove, motion, answer)
            self.reset_current_motion_id()

    @property
    def robot_state(self):
        state = super().robot_state
        return state.replace(robot_mode=protocol.RobotMode.kReflex) if self.in_reflex else state


def _handle_move(command, server):
    if server.in_reflex:
        command.reply(protocol.MoveStatus.kCommandNotPossibleRejected)
    else:
        _move(command, server)


def _handle_recovery(command, server):
    server.in_reflex = False
    command.reply(protocol.AutomaticErrorRecoveryStatus.kSuccess)


def main() -> None:
    protocol.MoveCommand.handle = _handle_move
    protocol.AutomaticErrorRecoveryCommand.handle = _handle_recovery
    simulation_server.FrankaRobotServer = Arm
    signal.signal(signal.SIGUSR1, lambda *_: PRESSED.append(True))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with MujocoSimulator(enable_visualization=False) as sim:
        sim.add_robot()
        with franky_sim.SimulationServer(sim, hostname_candidates=["127.0.0.1"]) as server:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            server.run_forever()


if __name__ == "__main__":
    main()
