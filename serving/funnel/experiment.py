"""An experiment: users are split between arms, each served by its own release or settings.

The file is JSON:

    {"name": "tighter-channels", "salt": "2026-03", "arms": [
        {"name": "control", "share": 0.5},
        {"name": "one-per-channel", "share": 0.5,
         "release": "20260301120000", "settings": {"per_channel": 1}}]}

A user's arm follows from the salt and the user id alone, so every replica and the analysis agree
without a table, and another salt splits anew. Shares that add up to less than 1 leave the rest of
the users outside. ``release`` keeps an arm on one version; without it the arm follows ``CURRENT``.
Such a release is pinned in the serving root (:func:`serving.release.publication.pin`), and stays
there until it is unpinned. A server that does not have it nevertheless serves the arm's users by
the current release, says so, and leaves those pages out of the experiment.
``settings`` are those of :class:`serving.funnel.page.FunnelConfig`, such as ``per_channel`` or
the formula ``page_value``: it changes without a training. The first arm is the control.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from features import command
from features.config import RuleError, declared
from serving.funnel.page import FunnelConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SETTINGS = {setting.name: setting for setting in declared(FunnelConfig)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant.

    Attributes:
        name: Within the experiment.
        share: Part of all users, in (0, 1].
        release: The version that serves the arm; None for the current one.
        settings: Settings that differ from those of the server.
    """

    name: str
    share: float
    release: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A split of users.

    Attributes:
        name: Name of the experiment in logs.
        salt: Text that decides, with the user id, who is in which arm.
        arms: The control first.
    """

    name: str
    salt: str
    arms: tuple[Arm, ...]

    def arm_of(self, user_id: str) -> Arm | None:
        """Returns the arm of a user, None for one outside the experiment."""
        digest = hashlib.sha256(f"{self.salt}\0{user_id}".encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        for arm in self.arms:
            place -= arm.share
            if place < 0:
                return arm
        return None

    @property
    def releases(self) -> set[str]:
        """The versions that its arms are kept on."""
        return {arm.release for arm in self.arms if arm.release}

    def exposure(self, arm: Arm) -> str:
        """Returns how the logs name an arm."""
        return f"{self.name}/{arm.name}"


def load(path: str | pathlib.Path) -> Experiment:
    """Reads an experiment.

    Raises:
        InputError: The file cannot be read, or breaks a rule.
    """
    try:
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        experiment = Experiment(
            name=document["name"],
            salt=str(document.get("salt") or document["name"]),
            arms=tuple(Arm(**arm) for arm in document["arms"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise command.InputError(
            f"the experiment {path} must be JSON with `name` and `arms`, each arm with `name`, "
            f"`share` and optional `release` and `settings`: {error!r}."
        ) from error
    fault = _fault(experiment)
    if fault:
        raise command.InputError(f"the experiment {path}: {fault}.")
    return experiment


def _fault(experiment: Experiment) -> str | None:
    """Returns the first rule that is broken."""
    names = [arm.name for arm in experiment.arms]
    for name in (experiment.name, *names):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return f"names must be letters, digits, '.', '_' and '-', at most 64, got {name!r}"
    if len(set(names)) != len(names) or len(names) < 2:
        return f"there must be two or more arms with different names, got {names}"
    total = 0.0
    for arm in experiment.arms:
        fault = _fault_of(arm)
        if fault:
            return fault
        total += arm.share
    if total > 1 + 1e-9:
        return f"shares must add up to 1 or less, got {total:g}"
    return None


def _fault_of(arm: Arm) -> str | None:
    if not isinstance(arm.share, int | float) or not 0 < arm.share <= 1:
        return f"the share of {arm.name} must be in (0, 1], got {arm.share!r}"
    if arm.release is not None and not (
        isinstance(arm.release, str) and re.fullmatch(r"[0-9]+", arm.release)
    ):
        return f"the release of {arm.name} must be a version in quotes, got {arm.release!r}"
    unknown = sorted(set(arm.settings) - set(_SETTINGS))
    if unknown:
        return f"settings of {arm.name} must be among {sorted(_SETTINGS)}, got {unknown}"
    return _fault_of_settings(arm)


def _fault_of_settings(arm: Arm) -> str | None:
    for name, value in arm.settings.items():
        kind = _SETTINGS[name].kind
        if kind is str and not isinstance(value, str):
            return f"{name} of {arm.name} must be text, got {value!r}"
        if kind is not str and (not isinstance(value, int | float) or isinstance(value, bool)):
            return f"{name} of {arm.name} must be a number, got {value!r}"
        if kind is int and not isinstance(value, int):
            return f"{name} of {arm.name} must be a whole number, got {value!r}"
    try:
        FunnelConfig(**arm.settings)
    except RuleError as error:
        return f"{error.name} of {arm.name} must {error.rule}, got {error.value!r}"
    except command.InputError as error:
        return f"settings of {arm.name}: {str(error).removesuffix('.')}"
    return None
