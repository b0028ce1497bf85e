"""Commands that cannot be executed, as a shell tells of them."""

from __future__ import annotations

from arcbox_net.errors import ArcboxNetError

EXIT_CANNOT_EXECUTE = 126  # the shell's own statuses
EXIT_NOT_FOUND = 127


class CommandFailed(ArcboxNetError):
    """A command could not be executed. Facts: `exit_status`, what a shell would exit with."""

    code = "command"
