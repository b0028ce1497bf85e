"""Prints what pyproject.toml needs for a build, or for the extra that is named, one requirement a line.

They go into the environment, not into pip's throw-away one: then pip and `setup.py build_ext` use the same Cython,
and what one of them has built is not built again by the other. Nor is it for tools that only read the sources.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())
extras = project["project"]["optional-dependencies"]
print("\n".join(extras[sys.argv[1]] if sys.argv[1:] else project["build-system"]["requires"]))
