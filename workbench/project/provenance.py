"""What a knowledge entry's card tells of where it came from, as far as the workbench reads it.

A card may come from anybody, so that every part that is read later has its form checked when the card is: a note that
the workbench does not know is shown as it is, a part that it knows has no fields of another version or another hand.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class SourceRow(msgspec.Struct, forbid_unknown_fields=True):
    """A ``SourceInfo``."""

    name: str
    path: str
    classes: int
    images: int
    fingerprint: str
    class_names: tuple[str, ...] = ()


class _Transfer(msgspec.Struct, forbid_unknown_fields=True):
    mean: float
    ci95: float
    episodes: int


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """See ``services/continuing.py``."""

    how: Literal["none", "l2", "ewc", "replay"]
    entry: str
    name: str
    sources: tuple[SourceRow, ...]
    strength: float | UnsetType = UNSET
    gone: tuple[str, ...] = ()
    uninformed: str = ""
    unmeasured: str = ""
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    average: float | UnsetType = UNSET
    backward: _Transfer | UnsetType = UNSET
    forward: _Transfer | UnsetType = UNSET


class _HeldOut(msgspec.Struct, forbid_unknown_fields=True):
    before: float
    after: float
    difference: float
    ci95: float
    episodes: int


class _Separation(msgspec.Struct, forbid_unknown_fields=True):
    before: float | None
    after: float | None


class _Aligned(msgspec.Struct, forbid_unknown_fields=True):
    """See ``services/aligning_report.py``."""

    method: Literal["adabn", "coral", "mmd", "dann"]
    target: tuple[str, ...]
    pictures: int
    held_out: _HeldOut | None = None
    separation: _Separation | UnsetType = UNSET
    unmeasured: str = ""


class _Mixed(msgspec.Struct, forbid_unknown_fields=True):
    """See ``services/mixtures.py``."""

    entry: str | None
    name: str
    weight: float
    similarity: float | None


class _Told(msgspec.Struct):
    """The parts that are read; others are only shown."""

    kept: _Kept | UnsetType = UNSET
    aligned: _Aligned | UnsetType = UNSET
    mixed: tuple[_Mixed, ...] = ()
    earlier: tuple[SourceRow, ...] = ()
    ancestor: str = ""
    ancestor_entry: str = ""
    run: str = ""
    seed: int = 0
    episodes: int = 0
    seconds: float = 0.0
    stopped: bool = False
    device: str = ""
    precision: str = ""
    across_tasks: bool = False
    rotations: bool = False
    pretrained: bool = False
    queries: int = 0
    start: str = ""
    command: str = ""
    validation_kind: str = ""
    trunk: str = ""
    probe: str = ""
    metafeatures: tuple[str, ...] = ()
    data: str = ""
    licence: str = ""


def check(provenance: dict[str, Any]) -> None:
    """Whether everything that is read of it has the form that it is read in.

    Raises:
        msgspec.ValidationError: says which part has not.
    """
    msgspec.convert(provenance, _Told)
