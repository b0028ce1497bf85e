"""Echo requests: repeated where an answer is expected, one where silence is."""

from __future__ import annotations

from tests.support.netns import Namespace, wait_until


def wait_for_echo(where: Namespace, address: str, *options: str) -> str:
    """What ping says once an echo request from *where* to *address* is answered."""
    # It ends with the first answer, and with the first error, after which it is asked again.
    words = ["ping", "-n", "-c", "1", "-w", "3", "-i", "0.5", *options, address]

    def answer() -> str:
        done = where.run(words, check=False)
        return done.stdout if done.returncode == 0 else ""

    return wait_until(answer, message=f"{address} answers {where.name}")


def is_echoed(where: Namespace, address: str, *options: str) -> bool:
    """Whether one echo request is answered within a second: for where none should be, and loops of their own."""
    words = ["ping", "-n", "-c", "1", "-W", "1", *options, address]
    return where.run(words, check=False).returncode == 0
