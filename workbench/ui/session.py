"""What the window remembers between two starts: a small JSON in the config folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from workbench.core import paths, storage
from workbench.core.errors import StorageError

log = logging.getLogger(__name__)

_KIND, _VERSION = "window", 1
_RECENT = 8


@dataclass(frozen=True, slots=True)
class Session:
    """Preferences of the window.

    Attributes:
        geometry: of the window, as Qt writes it, base64.
        room: shown last.
        theme: ``light``, ``dark``, or "" to follow the system.
        project: folder of the project, escaped; "" for the scratch project.
        recent: folders of projects, escaped, newest first.
        selected: what was selected in each room, in words of the room's own.
    """

    geometry: str = ""
    room: str = "sources"
    theme: str = ""
    project: str = ""
    recent: tuple[str, ...] = ()
    selected: dict[str, str] = field(default_factory=dict)

    def opened(self, project: str) -> Session:
        """After a project was opened: it is the first of the recent ones."""
        if project == paths.escape(paths.scratch_project()):
            return replace(self, project="")
        rest = tuple(p for p in self.recent if p != project)
        return replace(self, project=project, recent=(project, *rest)[:_RECENT])

    def left(self, geometry: bytes, room: str, selected: dict[str, str]) -> Session:
        """As the window was left; rooms that were not entered keep what they had selected."""
        kept = self.selected | {name: key for name, key in selected.items() if key}
        return replace(self, geometry=geometry.decode(), room=room, selected=kept)


def load() -> Session:
    """The last session; a fresh one where there is none or it is damaged."""
    path = paths.config_home() / "window.json"
    if not path.exists():
        return Session()
    try:
        return storage.decode_json(storage.load(path), _KIND, _VERSION, Session, path.name)
    except StorageError as error:
        log.warning("%s", error)
        return Session()


def save(session: Session) -> None:
    """Keep the session; a disk that cannot be written only costs the memory of it."""
    try:
        data = storage.encode_json(_KIND, _VERSION, session)
        storage.save(paths.config_home() / "window.json", data, keep_previous=False)
    except StorageError as error:
        log.warning("%s", error)
