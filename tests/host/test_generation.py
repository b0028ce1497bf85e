"""Telling our own transactions from those that others commit at the same moment."""

import contextlib

import pytest

from arcbox_net.host.linux import generation
from arcbox_net.host.linux.generation import OwnChanges


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's generation number, as a list of one."""
    number = [7]
    monkeypatch.setattr(generation, "current_generation", lambda: number[0])
    return number


def commit(changes, kernel, transactions, *, fails=False):
    with contextlib.suppress(OSError), changes:
        kernel[0] += transactions
        if fails:
            raise OSError("refused")


def test_a_transaction_alone_is_ours(kernel):
    changes = OwnChanges()
    commit(changes, kernel, 1)
    assert changes.take(8)
    assert not changes.take(9)


def test_of_several_at_once_the_one_that_touched_our_tables_is_ours(kernel):
    changes = OwnChanges()
    commit(changes, kernel, 3)
    assert changes.take(9)


def test_a_second_one_that_touched_our_tables_is_somebody_elses(kernel):
    changes = OwnChanges()
    commit(changes, kernel, 3)
    assert changes.take(8)
    assert not changes.take(10)


def test_what_others_commit_while_ours_fails_is_theirs(kernel):
    changes = OwnChanges()
    commit(changes, kernel, 1, fails=True)
    assert not changes.take(8)


def test_old_changes_are_forgotten(kernel):
    changes = OwnChanges()
    for _ in range(generation.OWN_GENERATIONS_MAX + 1):
        commit(changes, kernel, 1)
    assert not changes.take(8)
    assert changes.take(9)
