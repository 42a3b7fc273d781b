"""Holds what the commands share: parser, the option `--resume [auto]`, and how they end, with a line and a code."""

from __future__ import annotations

import argparse
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from pretrain.runtime.errors import ExpectedError, Preempted
from pretrain.runtime.limits import Limit
from pretrain.runtime.machine import NO_RESOURCE, NO_STORAGE, fault
from pretrain.runtime.shipped import as_installed
from pretrain.runtime.wording import short

WRONG = 2  # something is wrong with the command, the config, the data or a file; one line says what
REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again
INTERRUPTED = 128 + 2  # what a shell reports of a command that Ctrl-C (SIGINT, 2) has ended
TERMINATED = 128 + 15  # the same for SIGTERM
UNREAD = 128 + 13  # the same for a closed pipe (SIGPIPE, 13)
CODES = {
    0: "done",
    WRONG: "something is wrong with the command, the config, the data or a file",
    NO_RESOURCE: "memory, shared memory, processes or open files ran out, or a loader's process was killed",
    NO_STORAGE: "the disk is full, read-only or broken, or the output folder was removed",
    REQUEUE_STATUS: "asked to stop, and saved: run it again",
    INTERRUPTED: "Ctrl-C before there was anything to save",
    UNREAD: "whoever read the output has gone",
    TERMINATED: "SIGTERM before there was anything to save",
}  # what `docs/clusters.md` says of exit codes


class Parser(argparse.ArgumentParser):
    """Keeps the lines of a description as they are; in an installation, help and usage name the commands it has."""

    def __init__(self, description: str | None = None, prog: str | None = None, **options: Any):
        script = os.path.basename(sys.argv[0])
        super().__init__(
            prog=prog or as_installed(f"tools/{script}").removeprefix("tools/"),
            description=description and as_installed(description),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )


def parse_with_resume(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, yes: str = "yes", example: str = "SEED 1"
) -> argparse.Namespace:
    """Adds `--resume [auto]` and `KEY VALUE ...` to what a command takes, and parses its words, in any order.

    Args:
        yes: the value of `resume` for `--resume` without `auto`.
        example: options that the help shows.

    Returns:
        The parsed words, with `resume` ("no", `yes` or "auto") and `opts` (alternating keys and values).
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


def number(limit: Limit, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """Returns a `type=` for argparse: a number within limits, or else the command ends with one line that says why."""

    def parse(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{short(word)} is not {what}") from None
        if problem := limit.problem(value):
            raise argparse.ArgumentTypeError(f"{short(value)}: {problem}")
        return value

    return parse


def status(main: Callable[..., int], *args: Any) -> int:
    """Returns the exit code of `main(*args)`; errors that are no fault of the program become one line on stderr.

    The code is 2 for an expected error, a file that cannot be read or written, or a loss that is not a number; 71 or 74
    for what the machine lacks or has lost (see `machine`); and 75 for a signal that asked to stop.
    """
    try:
        if (opencv := sys.modules.get("pretrain.runtime.opencv")) is not None:  # of the commands that need it
            opencv.check()
        return main(*args)
    except Preempted as stop:
        return _ended(f"{stop}; go on with --resume auto (trials: with the same command)", REQUEUE_STATUS)
    except BrokenPipeError as error:  # the reader of our output has gone, which is nothing to tell; or a loader's pipe
        if (found := fault(error)) is None:
            raise
        return _ended(f"error: {found.words}", found.code)
    except Exception as error:
        if (found := fault(error)) is not None:
            return _ended(f"error: {found.words}", found.code)
        if not isinstance(error, (ExpectedError, OSError, FloatingPointError)):
            _log(f"ended by {type(error).__name__}: {error}", traceback=True)
            raise
        return _ended(f"error: {_in_words(error)}", WRONG)


def _ended(words: str, code: int) -> int:
    """Writes to stderr, and to the log files that are open, why a command ends."""
    words = as_installed(words)
    sys.stderr.write(f"{words}\n")
    _log(words)
    return code


def _log(words: str, traceback: bool = False) -> None:
    """Writes a line to the run's log files alone; the screen gets the line without a time."""
    logger = logging.getLogger(__name__)
    line = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 0, words, (), sys.exc_info() if traceback else None, "status"
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(line)


class Terminated(SystemExit):
    """Ends a command that SIGTERM asked to stop, as an interrupt does: what lies in `finally` blocks is still done."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Has SIGTERM raise `Terminated` in the main thread, unless it is ignored or handled already.

    Later ones change nothing, since `timeout` sends two and the end is under way. A forked child, such as a loader's
    process, dies of the signal as it would without a handler.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with its `status`; after Ctrl-C or SIGTERM with one line, and 130 or 143.

    If the reader of the output has gone (`... | head`), it exits with 141 and without a message.
    """
    code: str | int | None
    try:
        with _ended_by_sigterm():
            try:
                code = status(main)
            except Terminated:
                raise
            except SystemExit as end:  # argparse's, after `--help` for instance
                code = end.code
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        code = _stopped("interrupted", INTERRUPTED)
    except Terminated:
        code = _stopped("stopped by SIGTERM", TERMINATED)
    except BrokenPipeError:
        if not _drop_unread():  # another pipe, such as one to a loader's process
            raise
        code = UNREAD
    sys.exit(code)


def _stopped(what: str, code: int) -> int:
    _drop_unread()
    return _ended(f"{what}; run it again to go on (a training with --resume auto)", code)


def _in_words(error: BaseException) -> str:
    """Returns the error's message; for a failed system call, the file and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror}; check the path and its permissions"
    text = str(error) or type(error).__name__
    if re.match(r"Caught \w+ in DataLoader worker process", text):  # torch puts the worker's traceback into the message
        text = re.sub(r"^[\w.]+: ", "", text.rstrip().splitlines()[-1])
    return text


def _drop_unread() -> bool:
    """Redirects standard output and error to nowhere where nobody reads them any more; returns whether that was so."""
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
