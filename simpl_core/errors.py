"""What can go wrong for a user, by name. The command line prints the message in one line and exits with 2."""

from __future__ import annotations


class SimplError(Exception):
    """Base of every error a user can cause or mend."""


class ConfigError(SimplError):
    """A setting has an impossible value or an unknown name."""


class DatasetError(SimplError):
    """A dataset is missing, damaged or of another layout."""


class TaskError(SimplError):
    """A task names something that the environment does not have."""


class CheckpointError(SimplError):
    """A run folder is missing, incomplete or of other sizes."""


class BundleError(SimplError):
    """A model bundle breaks its contract."""


class EnvironmentMissingError(SimplError):
    """Software that this command needs is not installed."""


class InferenceError(SimplError):
    """A model was asked for an answer it cannot give: wrong sizes, numbers that are not finite, no episode begun."""


class WorkerError(SimplError):
    """A process that worked for this one died or failed."""
