"""What the commands share: `--resume` with and without `auto`, and how they end: after Ctrl-C, or unread."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

INTERRUPTED = 128 + 2  # what a shell reports of a command that Ctrl-C (SIGINT, 2) has ended
UNREAD = 128 + 13  # the same for a closed pipe (SIGPIPE, 13)


def parse_with_resume(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, yes: str = "yes", example: str = "SEED 1"
) -> argparse.Namespace:
    """Parses a command's words after adding `--resume [auto]` and `KEY VALUE ...` to what it takes, in any order.

    Args:
        yes: what `--resume` without `auto` is called.
        example: options, for the help.

    Returns:
        With `resume` ("no", `yes` or "auto") and `opts` (alternating keys and values).
    """
    parser.add_argument(
        "--resume",
        nargs="?",
        const=yes,
        default="no",
        choices=("no", yes, "auto"),
        metavar="auto",
        help="continue OUTPUT_DIR's checkpoint; an error if there is none, unless 'auto' is given",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help=f"config keys to override, e.g. {example}")
    words = list(sys.argv[1:] if argv is None else argv)
    for i, word in enumerate(words):
        if word == "--resume" and words[i + 1 : i + 2] != ["auto"]:
            words[i] = f"--resume={yes}"  # of `--resume KEY VALUE` both words belong to the options
    return parser.parse_intermixed_args(words)


def leave(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with its status; after Ctrl-C with one line, and 130.

    Where whoever reads the output has gone (`... | head`), it exits with 141 and no word.
    """
    try:
        try:
            status: str | int | None = main()
        except SystemExit as end:  # argparse's, after `--help` for instance
            status = end.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _drop_unread()
        sys.stderr.write("interrupted; run it again to go on (a training with --resume auto)\n")
        status = INTERRUPTED
    except BrokenPipeError:
        if not _drop_unread():  # another pipe, such as one to a loader's process
            raise
        status = UNREAD
    sys.exit(status)


def _drop_unread() -> bool:
    """Leads standard output and error, where nobody reads them any more, to nowhere; whether there was such a one."""
    found = False
    for number in (1, 2):
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            found = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
    return found
