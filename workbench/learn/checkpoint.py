"""Checkpoints of a training run: ``step-N-HASH.safetensors`` first, then ``step-N.json`` that names the hash.

A checkpoint exists once its JSON does, and no file that one names is ever written over. Where the run stands lies in
the first file's header, so the hash covers it too. The two newest are kept, so that a damaged one can be passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch

from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.learn.optimiser import Moments
from workbench.learn.protocol import State, Tensors, detach, generator

KIND, VERSION, _KEPT = "training checkpoint", 1, 2
_NAME = re.compile(r"step-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Best:
    """What is known of the best state so far.

    Attributes:
        accuracy: on the validation episodes.
        ci95: half the width of its interval.
        tested: validation episodes.
        episode: of training, when it was measured.
    """

    accuracy: float
    ci95: float
    tested: int
    episode: int


@dataclass(slots=True)
class Position:
    """Where a run stands; everything besides tensors that it needs to go on.

    Attributes:
        phase: index.
        step: outer steps done.
        episodes: done.
        seconds: of training, pauses left out.
        phase_episodes: done in this phase.
        phase_seconds: used in this phase.
        validated_at: episodes done at the last validation.
        stale: validations since the best one.
        adam: how often each learned tensor was stepped in this phase.
        best: of the state kept, or ``None`` before the first validation.
    """

    phase: int = 0
    step: int = 0
    episodes: int = 0
    seconds: float = 0.0
    phase_episodes: int = 0
    phase_seconds: float = 0.0
    validated_at: int = 0
    stale: int = 0
    adam: dict[str, int] = field(default_factory=dict)
    best: Best | None = None


@dataclass(slots=True)
class Run:
    """A run at one moment: all that changes in the training loop, and all that a checkpoint keeps.

    Attributes:
        at: where it stands.
        state: current.
        moments: of the optimiser.
        gen: draws the batches.
        best: the best state so far, or ``None`` before the first validation.
        asked: digest of what was asked; a checkpoint of another run is not taken up.
    """

    at: Position
    state: State
    moments: Moments
    gen: torch.Generator
    best: State | None
    asked: str


@dataclass(frozen=True, slots=True)
class _Card:
    sha256: str


def save_checkpoint(folder: Path, run: Run) -> None:
    """Write a checkpoint and drop all but the two newest.

    Raises:
        StorageError: it was not written; the ones before it are untouched.
    """
    run.at.adam = dict(run.moments.steps)
    tensors: Tensors = {"generator": run.gen.get_state()}
    for prefix, state in (("", run.state), ("best.", run.best)):
        if state is not None:
            tensors |= {f"{prefix}learned.{k}": v for k, v in state.learned.items()}
            tensors |= {f"{prefix}memory.{k}": v for k, v in state.memory.items()}
    tensors |= {f"adam.first.{k}": v for k, v in run.moments.first.items()}
    tensors |= {f"adam.second.{k}": v for k, v in run.moments.second.items()}
    header = {"asked": run.asked, "position": msgspec.json.encode(run.at).decode()}
    # a clone each: safetensors refuses tensors that share memory, as the best state's may with the current one's
    data = safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, header)
    card = folder / f"step-{run.at.step}.json"
    digest = hashlib.sha256(data).hexdigest()
    storage.save(_tensors(card, digest), data, keep_previous=False)
    storage.save(card, storage.encode_json(KIND, VERSION, _Card(digest)), keep_previous=False)
    _drop_older(folder, _tensors(card, digest))


def _drop_older(folder: Path, newest: Path) -> None:
    cards = _cards(folder)
    needed = {newest}
    for card in cards[:_KEPT]:
        with contextlib.suppress(StorageError):
            needed.add(_tensors(card, _read(card)))
    for path in (*cards[_KEPT:], *(set(folder.glob("step-*.safetensors")) - needed)):
        with contextlib.suppress(OSError):
            path.unlink()


def load_checkpoint(folder: Path, device: str = "cpu") -> tuple[Run | None, str]:
    """The newest checkpoint that is whole.

    Args:
        folder: of the run.
        device: where its tensors go; the generator's state stays on the processor.

    Returns:
        It, or ``None`` if none was written yet, and a message for people if newer ones had to be passed over, else "".

    Raises:
        StorageError: there are some, and all are damaged.
    """
    cards = _cards(folder)
    damage: StorageError | None = None
    for path in cards:
        try:
            run = _load(path, device)
        except StorageError as error:
            damage = damage or error
            continue
        if damage is None:
            return run, ""
        return run, f"The newest checkpoint is damaged; going on from the one before it, at episode {run.at.episodes}"
    if damage is not None:
        raise StorageError(
            "The run was not resumed",
            f"none of its checkpoints can be used; of the newest, {damage.why}",
            "Start it again",
        ) from damage
    return None, ""


def _cards(folder: Path) -> list[Path]:
    found = [(int(m[1]), p) for p in folder.glob("step-*.json") if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found, reverse=True)]


def _tensors(card: Path, digest: str) -> Path:
    return card.with_name(f"{card.stem}-{digest[:12]}.safetensors")


def _read(card: Path) -> str:
    return storage.decode_json(storage.load(card), KIND, VERSION, _Card, str(card)).sha256


def _load(card: Path, device: str) -> Run:
    digest = _read(card)
    weights = _tensors(card, digest)
    data = storage.load(weights, digest)
    try:
        tensors = safetensors.torch.load(data)
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        at = msgspec.json.decode(header["position"], type=Position)
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise StorageError(f"{weights} is damaged", str(error), "Start the run again") from error
    gen = generator(0)
    gen.set_state(tensors.pop("generator"))
    tensors = {k: v.to(device) for k, v in tensors.items()}
    part = {
        prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in ("learned.", "memory.", "best.learned.", "best.memory.", "adam.first.", "adam.second.")
    }
    best = State(part["best.learned."], part["best.memory."]) if at.best is not None else None
    moments = Moments(part["adam.first."], part["adam.second."], dict(at.adam))
    return Run(at, State(part["learned."], part["memory."]), moments, gen, best, header["asked"])


def state_digest(state: State) -> str:
    """sha256 of all tensors of a state, by name: equal exactly if two states are bit-identical."""
    h = hashlib.sha256()
    for kind, tensors in (("learned", state.learned), ("memory", state.memory)):
        update_digest(h, kind, tensors)
    return h.hexdigest()


def update_digest(h: hashlib._Hash, kind: str, tensors: Tensors) -> None:
    """Add tensors to a hash: name, type, shape and bytes, in the order of their names."""
    for name, t in sorted(detach(tensors).items()):
        flat = t.cpu().contiguous()
        h.update(f"{kind}\0{name}\0{flat.dtype}\0{tuple(flat.shape)}\0".encode())
        h.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
