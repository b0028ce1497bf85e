"""Inputs that fuzzing saved: each reached something that no other did, or crashed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_saved_inputs_pass(name):
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs, "a target without a corpus begins from nothing at each run"
    for one in inputs:
        TARGETS[name](one.read_bytes())
