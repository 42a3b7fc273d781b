"""The collector comes back as it was."""

from __future__ import annotations

import gc

import pytest

from pretrain.runtime.collector import without_collection


@pytest.fixture(params=[True, False], ids=["on", "off"])
def before(request: pytest.FixtureRequest):
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


def test_it_is_off_within_and_as_before_afterwards(before: bool) -> None:
    with pytest.raises(KeyError), without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() is before


def test_as_a_decorator(before: bool) -> None:
    @without_collection()
    def state() -> bool:
        return gc.isenabled()

    assert [state(), state()] == [False, False] and gc.isenabled() is before
