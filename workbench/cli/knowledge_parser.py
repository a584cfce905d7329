"""The options of ``workbench knowledge``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parts(knowledge: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The parts of the command."""
    parts = knowledge.add_subparsers(dest="part", metavar="PART", required=True)
    listed = parts.add_parser("list", parents=[common], help="what is known")
    listed.add_argument("--search", default="", metavar="TEXT", help="only where every word is found")
    listed.add_argument("--retired", action="store_true", help="what was put away instead")
    show = parts.add_parser("show", parents=[common], help="one entry: sources, classes, ancestors, how it went")
    show.add_argument("entry", metavar="ENTRY")
    similar = parts.add_parser("similar", parents=[common], help="by similarity to a folder's pictures")
    similar.add_argument("folder", metavar="FOLDER")
    taken = parts.add_parser("import", parents=[common], help="take an entry out of a file")
    taken.add_argument("file", type=Path, metavar="FILE")
    given = parts.add_parser("export", parents=[common], help="write an entry as one file")
    given.add_argument("entry", metavar="ENTRY")
    given.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file, or a folder for it")
    retire = parts.add_parser("retire", parents=[common], help="put an entry away: not listed, not chosen, not deleted")
    retire.add_argument("entry", metavar="ENTRY")
    retire.add_argument("--why", default="", metavar="TEXT")
    restore = parts.add_parser("restore", parents=[common], help="take a retired entry into use again")
    restore.add_argument("entry", metavar="ENTRY")
