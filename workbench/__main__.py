"""Entry point: runs one command; imports the window only for ``window``, ``tour`` and the end of ``demo``."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 done, 1 refused with a message, 2 usage.
    """
    from workbench.cli.parser import parse, run_command

    arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.command == "window":
        from workbench.ui.app import run

        return run(arguments.target or arguments.project, list(arguments.open))
    if arguments.command == "tour":
        from workbench.ui.tour import run as tour

        return tour(arguments.out, arguments.theme, arguments.language, arguments.scale)
    code = run_command(arguments)
    if code == 0 and arguments.command == "demo" and not (arguments.json or arguments.no_window):
        from workbench.ui.app import has_screen, run

        if has_screen():
            return run(arguments.project, [])
    return code


if __name__ == "__main__":
    sys.exit(main())
