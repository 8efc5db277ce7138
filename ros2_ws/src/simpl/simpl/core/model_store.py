"""The robot's models: every version verified before it gets a place, refused ones remembered, older ones kept."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.bundle import Bundle, materialise
from export.manifest import Manifest
from simpl_core.errors import BundleError

LARGEST_UPDATE = 256 << 20
"""A larger update [bytes] is refused unread."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelUpdate:
    """A model as it comes from a learner: the files that differ from the parent's, see ModelUpdate.msg.

    Attributes:
        files: content by name.
        trained_on: highest seq it was trained on.
    """

    model_version: str
    parent_version: str
    manifest_json: str
    files: Mapping[str, bytes]
    trained_on: int


@dataclass(frozen=True)
class StoredModel:
    """A verified model. `trained_on` is (epoch, seq) of the newest transition it has seen; (0, 0) for the first."""

    version: str
    folder: Path
    trained_on: tuple[int, int]


class ModelRefusedError(BundleError):
    """An update that will not be used; `repeated` when it was refused before for the same reason."""

    def __init__(self, version: str, reason: str, *, repeated: bool = False) -> None:
        super().__init__(f"model {version[:12]} is refused: {reason}")
        self.reason, self.repeated = reason, repeated


class ModelStore:
    """Bundles by version below one folder; the first is the one the run started from and is never removed.

    Attributes:
        accepted: versions taken in over all starts.
        refused: reason by version, the same.
    """

    def __init__(
        self,
        folder: Path,
        base: Bundle,
        robot_uuid: str,
        accepted: list[str] | None = None,
        refused: dict[str, str] | None = None,
        *,
        keep: int = 8,
    ) -> None:
        """`keep` accepted versions stay for rollback; what an earlier start left in `folder` is removed.

        A learner offers its newest model again to a robot that was restarted, so nothing is lost by that. `accepted`
        and `refused` are the lists of the earlier start, counted on in place.
        """
        self._folder, self._base, self._robot = Path(folder), base, robot_uuid
        self._keep = keep
        self._lock = threading.Lock()  # a model is verified on another thread than the one that may give one up
        self._models = [StoredModel(base.model_version, base.folder, (0, 0))]
        self.accepted = [] if accepted is None else accepted
        self.refused = {} if refused is None else refused
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def newest(self) -> StoredModel:
        """The last accepted version that was not rolled back."""
        return self._models[-1]

    def knows(self, version: str) -> bool:
        """Whether a version was taken in or refused; one that is being verified is not known yet."""
        return version in self.refused or any(model.version == version for model in self._models)

    def path(self, version: str) -> Path:
        """Folder of a version.

        Raises:
            BundleError: it is not here.
        """
        for model in self._models:
            if model.version == version:
                return model.folder
        have = ", ".join(model.version[:12] for model in self._models)
        raise BundleError(f"model {version[:12]} is not in {self._folder}, which has {have}")

    def offer(self, update: ModelUpdate) -> StoredModel | None:
        """Verify an update and take it in; None when that version is here already.

        Raises:
            ModelRefusedError: what is wrong with it; the models in use are untouched.
        """
        version = update.model_version
        if version in self.refused:
            raise ModelRefusedError(version, self.refused[version], repeated=True)
        if self.knows(version):
            return None
        try:
            model = self._admit(update)
        except Exception as error:  # whatever a foreign model brings about, it must not end the bridge
            reason = str(error) if isinstance(error, BundleError) else f"its check failed: {error!r}"
            self.refused[version] = reason
            raise ModelRefusedError(version, reason) from error
        with self._lock:
            self._models.append(model)
            if version not in self.accepted:
                self.accepted.append(version)
            self._prune()
        return model

    def rollback(self, acting: str) -> StoredModel:
        """Give up version `acting` and all newer ones for the one before; they are refused from now on.

        The first version stays when it acts itself. Where `acting` was given up before, the newest goes.

        Raises:
            BundleError: there is none to give up.
        """
        with self._lock:
            versions = [model.version for model in self._models]
            oldest = 1  # where `acting` is the first, or older than all that are kept
            if acting in versions[1:]:
                oldest = versions.index(acting)
            elif acting in self.refused:
                oldest = max(1, len(versions) - 1)
            if oldest == len(versions):
                raise BundleError("there is no earlier model to go back to")
            del self._models[oldest:]
            self.refused.update(dict.fromkeys(versions[oldest:], "it was rolled back"))
            return self.newest

    def _admit(self, update: ModelUpdate) -> StoredModel:
        size = sum(len(data) for data in update.files.values())
        if size > LARGEST_UPDATE:
            raise BundleError(f"{size} bytes of files; at most {LARGEST_UPDATE} are taken")
        manifest = Manifest.from_json(update.manifest_json)
        if manifest.model_version != update.model_version:
            raise BundleError(f"its manifest is that of {manifest.model_version[:12]}")
        trained_on = self._origin(manifest, update)
        if trained_on < self.newest.trained_on:
            epoch, seq = self.newest.trained_on
            raise BundleError(
                f"it is stale: trained up to transition {trained_on[1]} of start {trained_on[0]}, "
                f"the newest model here up to {seq} of start {epoch}"
            )
        parent = self._base if manifest.parent_version == self._base.model_version else self._known_parent(manifest)
        folder = self._folder / update.model_version
        materialise(parent, update.files, update.manifest_json, folder)
        return StoredModel(update.model_version, folder, trained_on)

    def _origin(self, manifest: Manifest, update: ModelUpdate) -> tuple[int, int]:
        origin = manifest.provenance.get("trained_on")
        if not isinstance(origin, dict):
            raise BundleError("its provenance does not say what it was trained on")
        robot, epoch, seq = origin.get("robot_uuid"), origin.get("epoch"), origin.get("seq")
        if robot != self._robot:
            raise BundleError(f"it is foreign: trained for robot {robot}, this is {self._robot}")
        if not isinstance(epoch, int) or not isinstance(seq, int) or seq != update.trained_on:
            raise BundleError(f"it contradicts itself: trained up to {seq!r} or {update.trained_on}")
        return epoch, seq

    def _known_parent(self, manifest: Manifest) -> Bundle:
        parent = str(manifest.parent_version)
        try:
            return Bundle.open(self.path(parent))
        except BundleError as error:
            raise BundleError(f"its parent {parent[:12]} is not known here") from error

    def _prune(self) -> None:
        while len(self._models) > self._keep + 1:
            old = self._models.pop(1)  # the first one is the run's own and lies elsewhere
            shutil.rmtree(old.folder, ignore_errors=True)
            log.info("removed model %s", old.version[:12])
