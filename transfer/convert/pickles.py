"""Tells from a pickle's opcodes what it would do, without running it."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable
from functools import cache
from typing import IO

from pretrain.runtime.errors import ExpectedError

DEEPEST = 100  # containers within containers; deeper ones overflow the interpreter's stack when they are hashed
SPARSEST = 1000  # memo places left out; picklers count on, and a reader allocates up to the highest


class PickleError(ExpectedError, ValueError):
    """A byte stream that is not a pickle, or that has a structure which only an attack has."""


@cache
def _effect(name: str) -> tuple[bool, int, int, bool]:
    """Returns whether an opcode pops to the last mark, how many it pops beyond and pushes, and whether it nests."""
    opcode = next(op for op in pickletools.opcodes if op.name == name)
    before = [item.name for item in opcode.stack_before]
    marked = "mark" in before
    pops = before.index("mark") if marked else len(before)
    return marked, pops, len(opcode.stack_after), name.startswith(("TUPLE", "REDUCE", "FROZENSET", "NEWOBJ"))


def scan(stream: bytes | IO[bytes]) -> tuple[str, ...]:
    """Returns every class and function that one pickle asks for, as "module.name", in order of first appearance.

    The pickle is walked with a stack of (text, nesting) instead of objects.

    Raises:
        PickleError: it is damaged, or built to exhaust memory or stack.
    """
    try:
        names = (re.sub(r"^__builtin__\.", "builtins.", n) for n in _walk(pickletools.genops(stream)))
        return tuple(dict.fromkeys(n if n.isprintable() else ascii(n) for n in names))  # no terminal obeys them
    except PickleError:
        raise
    except Exception as error:  # pickletools raises whatever decoding raises
        reason = error or type(error).__name__
        raise PickleError(f"it is no checkpoint, or damaged ({reason}); check the path, or copy it again") from error


_PLAIN = frozenset(op.name for op in pickletools.opcodes if not op.stack_before and len(op.stack_after) == 1) - {
    "MARK", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER",
}  # fmt: skip


def _walk(ops: Iterable[tuple]) -> Iterable[str]:
    stack: list[tuple[str | None, int]] = []
    marks: list[int] = []
    memo: dict[int, tuple[str | None, int]] = {}
    for op, arg, _ in ops:
        name = op.name
        if name in _PLAIN:  # most of them: a value is pushed
            stack.append((arg if isinstance(arg, str) else None, 0))
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else arg
            if not 0 <= index <= len(memo) + SPARSEST:
                raise PickleError(f"its pickle asks for {index} memo places")
            memo[index] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name in ("GLOBAL", "INST"):
            if name == "INST":
                del stack[marks.pop() :]
            yield arg.replace(" ", ".", 1)
            stack.append((None, 0))
        elif name == "STACK_GLOBAL":
            (member, _), (module, _) = stack.pop(), stack.pop()
            if module is None or member is None:
                raise PickleError("its pickle computes the name of a class")
            yield f"{module}.{member}"
            stack.append((None, 0))
        elif name in ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"):
            raise PickleError(f"its pickle uses {name}, which no checkpoint does")
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP_MARK":
            del stack[marks.pop() :]
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name not in ("PROTO", "FRAME", "STOP"):
            _apply(stack, marks, _effect(name), arg)


def _apply(
    stack: list[tuple[str | None, int]], marks: list[int], effect: tuple[bool, int, int, bool], arg: object
) -> None:
    marked, pops, pushes, nests = effect
    depth = 0
    if marked:
        start = marks.pop()
        depth = max((d for _, d in stack[start:]), default=0)
        del stack[start:]
    if pops:
        depth = max(depth, *(d for _, d in stack[-pops:]), 0)
        if len(stack) < pops:
            raise PickleError("its pickle is damaged (its stack runs empty)")
        del stack[-pops:]
    if pushes:
        depth += nests
        if depth > DEEPEST:
            raise PickleError(f"its pickle nests more than {DEEPEST} tuples")
        stack.append((arg if isinstance(arg, str) else None, depth))
