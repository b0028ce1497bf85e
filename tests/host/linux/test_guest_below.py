"""A guest of an ordinary user's network: every power over its own namespace, none over the network's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Host
from tests.support.user import User

pytestmark = pytest.mark.e2e
SCRIPT = Path(__file__).with_name("private_network.py")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with Host(world=False) as host:
        yield User(host, tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def found(user: User) -> dict[str, Any]:
    """What a guest tried, and what came of it."""
    shown: dict[str, Any] = json.loads(user.run([sys.executable, str(SCRIPT)]).stdout)
    return shown


def test_the_network_moves_an_interface_into_the_guests_namespace(found: dict[str, Any]) -> None:
    assert found["attached"] == [0, ""]
    assert found["namespaces"] == 3  # the user's, the network's, the guest's


def test_the_guest_is_who_typed_it_and_rules_its_own_namespace(found: dict[str, Any], user: User) -> None:
    assert found["uid"] == user.uid
    assert found["own"] == [[0, ""]] * 3
    assert found["listens_on_80"]
    assert found["tables"] == "table inet mine\n"


def test_the_guest_enters_no_namespace_above_it(found: dict[str, Any]) -> None:
    refused = "Operation not permitted"
    assert found["entered_others"] == {
        "network's user": refused,
        "network's net": refused,
        "host's net": refused,
    }
    assert found["opened"] == "Permission denied"
    assert not found["moved"]


def test_the_guest_changes_nothing_of_the_networks_rules(found: dict[str, Any]) -> None:
    assert found["rules"] == [0, "table inet private\n"]


def test_the_owner_enters_the_networks_namespace(found: dict[str, Any]) -> None:
    (status, links), tables, shown_in_sys = found["entered"]
    assert status == 0
    assert "br0" in links
    assert tables == [0, "table inet private\n"]
    assert "br0" in shown_in_sys
