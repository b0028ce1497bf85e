"""Ends with a message when this interpreter is too old for the package."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (this file checks what the others assume)
    sys.exit(
        f"arcbox-net needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.11 …"
    )
