"""Options of ``train`` that align knowledge with another domain, and what they need of the others."""

from __future__ import annotations

import argparse
from functools import partial
from typing import get_args

from workbench.core.training import CLOSED_FORMS, Align


def options(train: argparse.ArgumentParser) -> None:
    """Add ``--target`` and ``--align``; what is parsed has a function ``check`` that is to be called with it."""
    train.add_argument(
        "--target",
        nargs="+",
        default=[],
        metavar="UNLABELLED_FOLDER",
        help="pictures of another domain that the entry of --from is aligned with; their labels, if any, are used for "
        "the report alone",
    )
    train.add_argument(
        "--align",
        choices=[a for a in get_args(Align) if a],
        default="",
        help="how: adabn and coral need no training, and no algorithm, episodes or minutes; mmd and dann do, and coral "
        "may have them",
    )
    train.set_defaults(check=partial(_check, train))


def _check(train: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse options that lack one another; alignment without training takes everything from its entry."""
    if bool(given.target) != bool(given.align):
        train.error("--target and --align belong together")
    if given.align and not given.start:
        train.error("--align needs the entry that is aligned: --from ENTRY")
    budget = given.episodes is not None or given.minutes is not None
    if given.align == "adabn" and budget:
        train.error("--align adabn needs no training: leave out --episodes and --minutes")
    if given.align in CLOSED_FORMS and not budget:
        return
    if not given.algorithm:
        train.error("the following arguments are required: --algorithm")
    if not budget:
        train.error("one of the arguments --episodes --minutes is required")
