"""Errors keep their class and facts across the API."""

import pytest

from arcbox_net import errors

CLASSES = sorted(errors._classes(errors.ArcboxNetError).values(), key=lambda cls: cls.code)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_error_survives_json(cls):
    error = cls("it failed", fix="do this", subnet="10.0.0.0/24", size=3)
    back = errors.from_json(error.to_json())
    assert type(back) is cls
    assert str(back) == "it failed (do this)"
    assert back.subnet == "10.0.0.0/24"
    assert back.size == 3


def test_codes_are_unique():
    def walk(cls):
        yield cls
        for child in cls.__subclasses__():
            yield from walk(child)

    found = list(walk(errors.ArcboxNetError))
    assert len({cls.code for cls in found}) == len(found)


@pytest.mark.parametrize(
    "body", [{}, {"code": "never-heard-of", "message": 7, "facts": None}, {"facts": {"fix": 1}}]
)
def test_unknown_or_broken_error_is_still_an_error(body):
    assert isinstance(errors.from_json(body), errors.ArcboxNetError)


def test_missing_fact_is_an_attribute_error():
    with pytest.raises(AttributeError):
        _ = errors.ConfigError("wrong").field
