"""Options of ``train`` that go on from knowledge without losing what it knew, and what became of that, for a person."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, get_args

from workbench.core.training import Keep


def options(train: argparse.ArgumentParser) -> None:
    """Add ``--keep`` and ``--keep-strength``."""
    train.add_argument(
        "--keep",
        choices=[k for k in get_args(Keep) if k],
        default="",
        help="of what the entry of --from knew: none measures what is lost, l2 and ewc hold its network near where it "
        "stood, replay trains on some pictures of its sources too",
    )
    train.add_argument("--keep-strength", type=_strength, metavar="LAM", help="of l2 and ewc")


def _strength(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def kept_lines(kept: dict[str, Any]) -> Iterable[str]:
    """What a run that went on from an entry kept of what that knew, for a person."""
    strength = f" of strength {kept['strength']:g}" if "strength" in kept else ""
    did = {"none": "nothing was done", "replay": "old pictures among the new ones"}.get(kept["how"])
    yield f"went on from {kept['name']} ({kept['entry']}); against forgetting: {did or kept['how'].upper() + strength}"
    if kept.get("gone"):
        yield f"not found any more, so neither used nor measured: {', '.join(kept['gone'])}"
    if kept.get("unmeasured"):
        yield f"what was lost was not measured: {kept['unmeasured']}"
    if kept.get("uninformed"):
        yield f"what matters to its sources was not measured, so nothing of it is stored: {kept['uninformed']}"
    before, after = kept.get("before", {}), kept.get("after", {})
    both = [n for n in kept.get("old", ()) if n in before and n in after]
    if both and "backward" in kept:
        was, now = (sum(side[n] for n in both) / len(both) for side in (before, after))
        b = kept["backward"]
        yield (
            f"accuracy on {len(both)} old source{'s' if len(both) > 1 else ''}: {was:.3f} before, {now:.3f} after, "
            f"backward transfer {b['mean']:+.3f} \u00b1 {b['ci95']:.3f}"
        )
    seen = [n for n in both if n in kept.get("seen", ())]
    if seen:
        yield (
            f"  on pictures that this run did not use, but {kept['name']} was trained on, so before may be too high: "
            f"{', '.join(seen)}"
        )
    f = kept.get("forward")
    ahead = f"forward transfer {f['mean']:+.3f} \u00b1 {f['ci95']:.3f}" if f else ""
    if "average" in kept:
        which = "old and new sources" if any(n in after for n in kept.get("new", ())) else "old sources"
        yield f"average accuracy on {which}: {kept['average']:.3f}{', ' if ahead else ''}{ahead}"
    elif ahead:
        yield ahead
    unheld = [n for n in kept.get("new", ()) if n not in after]
    if unheld:
        yield f"none of their pictures was held out, so no accuracy afterwards is claimed: {', '.join(unheld)}"
