"""Prints what pyproject.toml needs for a build, one requirement a line.

They go into the environment, not into pip's throw-away one: then pip and `setup.py build_ext` use the same Cython,
and what one of them has built is not built again by the other.
"""

import tomllib
from pathlib import Path

print("\n".join(tomllib.loads(Path("pyproject.toml").read_text())["build-system"]["requires"]))
