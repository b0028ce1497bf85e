"""Verdicts and drop reasons by name, for Python: `Direction` and `Verdict` are enums of the C values."""
