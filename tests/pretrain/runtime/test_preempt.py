"""Stop signals: noted instead of killing, agreed on by a group, passed on to children, and forgotten afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from pretrain.runtime import dist
from pretrain.runtime.preempt import STOP_SIGNALS, PassedOn, StopRequest
from tests.processes import run_in_processes


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.received == "" and stop.anywhere() == ""
        os.kill(os.getpid(), number)
        assert stop.received == stop.anywhere() == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == "SIGTERM"


def one_is_asked() -> tuple[str, str]:
    with StopRequest() as stop:
        if dist.rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return stop.received, stop.anywhere()


def test_a_group_agrees(tmp_path):
    assert run_in_processes(one_is_asked, tmp_path) == [("", "SIGUSR1"), ("SIGUSR1", "SIGUSR1")]


def wait_for_it(ready) -> None:
    with StopRequest() as stop:
        ready.set()
        until = time.monotonic() + 60
        while not stop.received and time.monotonic() < until:
            time.sleep(0.01)
    raise SystemExit(7 if stop.received == "SIGTERM" else 1)


def test_children_get_it_too():
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=wait_for_it, args=(ready,))
    child.start()
    assert ready.wait(60)
    with PassedOn() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        child.join(60)
    assert stop.received == "SIGTERM" and child.exitcode == 7
