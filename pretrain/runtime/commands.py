"""What the commands share: `--resume` with and without `auto`, and how they end after Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

INTERRUPTED = 128 + 2  # what a shell reports of a command that Ctrl-C (SIGINT, 2) has ended


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
    """Runs a command's `main` and exits with its status; after Ctrl-C with one line, and 130."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run it again to go on (a training with --resume auto)\n")
        sys.exit(INTERRUPTED)
