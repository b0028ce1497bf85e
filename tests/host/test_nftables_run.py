"""What callers are told when nft itself cannot do its work."""

from __future__ import annotations

import errno
import subprocess

import pytest

from arcbox_net.errors import ArcboxNetError, KernelError, PermissionDenied
from arcbox_net.host.linux import nftables


@pytest.mark.parametrize(
    ("outcome", "kind", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), KernelError, "nft is not installed"),
        (OSError(errno.EMFILE, "Too many open files"), KernelError, "Too many open files"),
        (OSError(errno.EAGAIN, "no more processes"), KernelError, "no more processes"),
        (subprocess.TimeoutExpired("nft", 30), KernelError, "did not answer in 30 s"),
        (subprocess.CompletedProcess("nft", 1, "", "Error: syntax\n^^^\n"), KernelError, "Error: syntax"),
        (subprocess.CompletedProcess("nft", 1, "", ""), KernelError, "unknown error"),
        (
            subprocess.CompletedProcess("nft", 1, "", "netlink: Error: Operation not permitted"),
            PermissionDenied,
            "Operation not permitted",
        ),
    ],
)
def test_nft_that_fails_is_an_error_of_ours_with_its_reason(
    outcome: object, kind: type[ArcboxNetError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(kind, match=said):
        nftables.run_nft("add table inet x", "network dev")
