"""Options of ``adapt``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from workbench.services.teach import WAYS


def add_options(adapt: argparse.ArgumentParser, seed: Callable[[str], int]) -> None:
    """What is adapted to what, and how it is chosen; ``seed`` reads a seed."""
    adapt.add_argument("entry", metavar="ENTRY|auto")
    adapt.add_argument("support", metavar="SUPPORT_FOLDER")
    adapt.add_argument("--out", type=Path, required=True, metavar="MODEL")
    adapt.add_argument("--seed", type=seed, default=0)
    adapt.add_argument(
        "--by",
        choices=("all", *WAYS),
        default="all",
        help="how auto chooses: similarity mixes networks that were trained from one entry, optimiser mixes the step "
        "sizes that they learnt too, recipes tries heads and layers of single entries, all tries everything",
    )
    adapt.add_argument(
        "--unlabelled",
        nargs="+",
        default=[],
        metavar="IMAGE|FOLDER",
        help="the pictures that are to be predicted; a transductive method looks at all of them together",
    )
