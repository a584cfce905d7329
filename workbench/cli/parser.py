"""The commands and their options; importable without torch or Qt."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

from workbench.cli import adapting, alignment, continuing
from workbench.cli.knowledge_parser import add_parts
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.paths import scratch_project
from workbench.core.training import Precision

Command = Callable[[argparse.Namespace, Context], int]


def span(text: str) -> tuple[int, int]:
    """``5`` or ``5-20`` as a range."""
    ends = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    if ends is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 5-20")
    found = int(ends[1]), int(ends[2] or ends[1])
    if found[0] > found[1] or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not run from a smaller to a larger number above 0")
    return found


def ways(text: str) -> tuple[int, int]:
    """A range of classes, at least two."""
    found = span(text)
    if found[0] < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: a choice needs at least two classes")
    return found


def choices(text: str) -> int:
    """A number of classes, at least two."""
    if positive(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: a choice needs at least two classes")
    return int(text)


def side(text: str) -> int:
    """The side of an input picture in pixels."""
    if not 8 <= positive(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 8 and 1024 pixels")
    return int(text)


def whole(text: str) -> int:
    """A seed."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return value


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def minutes(text: str) -> float:
    """Minutes above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return value


def assignment(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


class _UsageError(Exception):
    """The command line cannot be understood; printed where it is known whether JSON was asked for."""

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        super().__init__(message)
        self.parser = parser


class _Parser(argparse.ArgumentParser):
    """One that raises where argparse prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(self, message)


def build() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="workbench",
        description="Meta-transfer learning on image folders. Without a command the window opens.",
        epilog="'workbench demo' shows the whole walk on the shipped samples.",
    )
    parser.set_defaults(project=None, json=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    common = _Parser(add_help=False)
    common.add_argument("--project", type=Path, metavar="DIR", help="project folder (default: the user's own)")
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])

    window = add("window", "open the window (what happens without a command, too)")
    window.add_argument("target", nargs="?", type=Path, metavar="PROJECT", help="project folder")
    window.add_argument("--open", nargs="+", default=[], metavar="FOLDER", help="folders or zips to load")

    demo = add("demo", "the whole walk on the samples: load, meta-train, teach, predict, export, verify")
    demo.add_argument(
        "--out", type=Path, metavar="DIR", help="where models and exports go (default: the user's data folder)"
    )
    demo.add_argument("--no-window", action="store_true", help="do not open the window afterwards")
    demo.add_argument("--minutes", type=minutes, default=2.0, help="meta-training budget (default 2)")
    demo.add_argument("--seed", type=whole, default=0)

    tour = add("tour", "the same walk through the real window, one picture per step")
    tour.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    tour.add_argument("--theme", choices=["light", "dark"], default="light")
    tour.add_argument("--language", choices=["en", "zh_CN"], default="en")
    tour.add_argument("--scale", type=float, default=1.0)

    tasks = add("tasks", "what would be loaded from folders or zips: tasks, classes, counts, problems")
    tasks.add_argument("folders", nargs="+", metavar="FOLDER")
    add("algorithms", "all algorithms")
    add("backbones", "all backbones, with parameters and pretrained weights")
    add("devices", "all devices, each with a one-second self-test")
    add("doctor", "check what the workbench needs on this machine")

    train = add("train", "meta-train on folders and keep what was learnt as a knowledge entry")
    train.add_argument("folders", nargs="+", metavar="FOLDER")
    train.add_argument("--algorithm", default="", metavar="KEY", help="see 'workbench algorithms'")
    train.add_argument("--backbone", default="conv4", metavar="KEY", help="see 'workbench backbones' (default conv4)")
    train.add_argument("--ways", type=ways, default=(5, 5), metavar="N|MIN-MAX", help="classes per episode (default 5)")
    train.add_argument("--shots", type=span, default=(1, 1), metavar="K|MIN-MAX", help="examples per class (default 1)")
    train.add_argument("--queries", type=positive, default=15, metavar="Q", help="queries per class (default 15)")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--episodes", type=positive, metavar="E")
    budget.add_argument("--minutes", type=minutes, metavar="M")
    train.add_argument(
        "--patience", type=positive, metavar="V", help="stop after so many validations without a better one"
    )
    train.add_argument("--validation", nargs="+", default=[], metavar="FOLDER", help="folders to validate on")
    train.add_argument(
        "--rotations", action="store_true", help="each class turned by 90, 180, 270 degrees is a class too"
    )
    train.add_argument("--across-tasks", action="store_true", help="draw an episode's classes from all tasks together")
    train.add_argument(
        "--from", dest="start", default="", metavar="ENTRY|WEIGHTS", help="start from an entry's trunk or a file"
    )
    alignment.options(train)
    continuing.options(train)
    train.add_argument(
        "--pretrained", action="store_true", help="start from the backbone's pretrained weights on this machine"
    )
    train.add_argument(
        "--download", action="store_true", help="fetch the pretrained weights first (size, licence and host are named)"
    )
    train.add_argument(
        "--image-size", type=side, metavar="S", help="side of the input in pixels (default: the backbone's)"
    )
    train.add_argument("--channels", choices=["grey", "rgb"], default="rgb")
    train.add_argument("--set", dest="settings", type=assignment, action="append", default=[], metavar="NAME=VALUE")
    train.add_argument("--device", default="cpu", metavar="D")
    train.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="full",
        help="bf16: convolve between 16-bit floats while training, faster on processors made for it (default: full)",
    )
    train.add_argument("--seed", type=whole, default=0, metavar="S")
    train.add_argument("--name", default="", help="name of the entry")

    resume = add("resume", "go on with a run that was killed")
    resume.add_argument("run", metavar="RUN")

    evaluate = add("evaluate", "episodic accuracy of an entry on folders, with its interval")
    evaluate.add_argument("entry", metavar="ENTRY")
    evaluate.add_argument("folders", nargs="+", metavar="FOLDER")
    _episodes(evaluate)
    compare = add("compare", "several entries on the same frozen episodes, with paired differences")
    compare.add_argument("entries", nargs="+", metavar="ENTRY")
    compare.add_argument("--data", nargs="+", required=True, metavar="FOLDER")
    _episodes(compare)

    adapt = add("adapt", "adapt knowledge to a folder of class folders and write a model")
    adapting.add_options(adapt, whole)
    predict = add("predict", "predict pictures or folders with a model")
    predict.add_argument("model", metavar="MODEL")
    predict.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    predict.add_argument("--csv", default="", metavar="FILE")
    predict.add_argument(
        "--copy-to", default="", metavar="DIR", help="copy the pictures into class folders; originals stay"
    )
    export = add("export", "export a model and verify the file in a clean process")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--format", required=True, choices=["onnx", "safetensors", "pt2", "bundle"])
    export.add_argument("--out", type=Path, required=True, metavar="DIR")

    knowledge = add("knowledge", "list, show, compare, exchange or retire what is known")
    add_parts(knowledge, common)
    return parser


def _episodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ways", type=choices, default=5, metavar="N")
    parser.add_argument("--shots", type=positive, default=5, metavar="K")
    parser.add_argument("--queries", type=positive, default=15, metavar="Q")
    parser.add_argument("--episodes", type=positive, default=600, metavar="E")
    parser.add_argument("--across-tasks", action="store_true")
    parser.add_argument("--rotations", action="store_true")
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--csv", default="", metavar="FILE", help="write every figure as a line of a table")
    parser.add_argument("--latex", default="", metavar="FILE", help="write tables for a paper")
    parser.add_argument("--episodes-csv", default="", metavar="FILE", help="write the accuracy of each episode")


NAMES = frozenset(
    {
        "window",
        "demo",
        "tour",
        "tasks",
        "algorithms",
        "backbones",
        "devices",
        "doctor",
        "train",
        "resume",
        "evaluate",
        "compare",
        "adapt",
        "predict",
        "export",
        "knowledge",
    }
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments; ``workbench [PROJECT] [--open ...]`` is the command ``window``.

    Raises:
        SystemExit: 2 where they cannot be understood, with the usage on standard error and, where ``--json`` is among
            them, an object that says why on standard output.
    """
    try:
        return _parse(list(argv))
    except _UsageError as error:
        from workbench.cli.output import say

        say(f"{error.parser.format_usage()}{error.parser.prog}: error: {error}")
        if any(len(a) > 2 and "--json".startswith(a) for a in argv):
            _emit_error(str(error))
        raise SystemExit(2) from None


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = build()
    first = arguments[0] if arguments else ""
    if first not in NAMES and first not in {"-h", "--help"}:
        # a plain word that is not there is a slip of the pen, and must not make a project of that name
        if first and not first.startswith("-") and not {"/", "\\"} & set(first) and not Path(first).exists():
            near = difflib.get_close_matches(first, NAMES, 1, 0.6)
            advice = f"did you mean {near[0]!r}?" if near else f"for a new project give a path, such as ./{first}"
            parser.error(f"there is neither a command nor a project called {first!r}; {advice}")
        arguments.insert(0, "window")
    found = parser.parse_args(arguments)
    if found.command == "train":
        found.check(found)
    return found


def command_of(name: str) -> Command:
    """The function that runs a command; imported only when asked for."""
    if name in {"tasks", "algorithms", "backbones", "devices", "doctor"}:
        from workbench.cli import inspect_commands as module
    elif name in {"train", "resume", "evaluate", "compare"}:
        from workbench.cli import learn_commands as module  # type: ignore[no-redef]
    elif name in {"adapt", "predict", "export"}:
        from workbench.cli import model_commands as module  # type: ignore[no-redef]
    elif name == "knowledge":
        from workbench.cli import knowledge_commands as module  # type: ignore[no-redef]
    else:
        from workbench.cli import demo as module  # type: ignore[no-redef]
    found: Command = getattr(module, name)
    return found


def run_command(arguments: argparse.Namespace) -> int:
    """Run one command that needs no window.

    Returns:
        0 done, 1 refused with a message.
    """
    from workbench.cli.output import Terminal, say

    arguments.project = (arguments.project or scratch_project()).absolute()
    terminal = Terminal()
    ctx = Context(seed=getattr(arguments, "seed", 0) or 0, on_change=terminal)
    try:
        with _listening(ctx):
            return command_of(arguments.command)(arguments, ctx)
    except WorkbenchError as error:
        terminal.clear()
        return refuse(str(error), arguments.json)
    except (JobCancelledError, KeyboardInterrupt):
        terminal.clear()
        goes_on = "; 'workbench resume' goes on with a run" if arguments.command in {"train", "resume"} else ""
        return refuse(f"Stopped before there was a result{goes_on}", arguments.json)
    except BrokenPipeError:
        _nobody_reads()
        return 1
    except Exception as error:  # noqa: BLE001 - a bug is shown as one, and --json still prints its object
        terminal.clear()
        say(traceback.format_exc())
        return refuse(f"This is an error of the workbench itself: {error!r}", arguments.json)
    finally:
        terminal.clear()


@contextlib.contextmanager
def _listening(ctx: Context) -> Iterator[None]:
    """Ctrl-C and a request to end cancel the job, which keeps the best so far; the second one ends it at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        # written past the stream, which may be in the middle of a write
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping; the best so far is kept\n")
        ctx.cancel()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nobody_reads() -> None:
    """Standard output was closed, as by ``| head``: what is left in its buffer goes nowhere, without a complaint."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def refuse(message: str, as_json: bool) -> int:
    """Say on standard error why nothing was done; with ``--json`` also as an object on standard output."""
    from workbench.cli.output import say

    say(message)
    if as_json:
        _emit_error(message)
    return 1


def _emit_error(message: str) -> None:
    from workbench.cli.output import emit

    try:
        emit({"error": message}, True, lambda _: ())
    except BrokenPipeError:
        _nobody_reads()
