"""The network process: `python -m arcbox_net.network.main`, one per network. Start-up and shut-down order.

    lock → state → user namespace (without privileges) → kernel state → services → forwards → api.sock and fd.sock
    → ready line on the ready pipe

SIGTERM and SIGINT remove everything of ours and exit 0. With `--parent PID` the network ends with that process,
however it ends. The request arrives as one JSON object on standard input; the answer is one JSON line:
`{"ready": true}` or `{"error": …}`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import json
import logging
import os
import pwd
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from arcbox_net import paths
from arcbox_net.config import NetConfig
from arcbox_net.config_mapping import config_from_mapping
from arcbox_net.config_values import check_network_name
from arcbox_net.errors import ArcboxNetError, StartFailed
from arcbox_net.host.platform import ProcessEnd, platform
from arcbox_net.network.home import home
from arcbox_net.network.lock import NetworkLock, live_networks, make_records_dir
from arcbox_net.network.memory_brake import MemoryBrake
from arcbox_net.network.state import RUNNING, State, remove_state

OPEN_MAX = 10_240
log = logging.getLogger("arcbox_net")


class Answer:
    """The one line that whoever started this process waits for."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd: int | None = fd

    @property
    def told(self) -> bool:
        return self._fd is None

    def tell(self, body: dict[str, Any]) -> bool:
        """Say *body*, or nothing if the line was said before: what fails later is in the log. False: nobody listens."""
        fd, self._fd = self._fd, None
        if fd is None:
            return True
        try:
            os.write(fd, json.dumps(body, default=str).encode() + b"\n")
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


async def serve(
    name: str,
    config: NetConfig,
    state: State,
    lock: NetworkLock,
    *,
    is_private: bool,
    record_dir: Path,
    parent: int | None,
    answer: Answer,
) -> None:
    """Run the network until it is told to stop. Raises what kept it from starting."""
    from arcbox_net.network.presence import Presence

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(MemoryBrake())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the program that started us may block what ends us
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent_end = _watch_parent(parent, stopping) if parent is not None else None
    try:
        network = home().network()(
            name,
            config,
            state,
            owner=_user_name(os.geteuid()),
            live_networks=live_networks,
            record_dir=record_dir,
            on_stop=stopping.set,
            is_private=is_private,
        )
        await network.start()
        try:
            presence = Presence(network, lock, stopping.set)
            presence.listen()
            if not answer.tell({"ready": True, "pid": os.getpid()}):
                log.warning("network %s: whoever started it is gone, so it ends", name)
                stopping.set()
            try:
                await presence.start()
                gc.freeze()
                gc.enable()
                log.info("network %s is ready", name)
                sweeping = loop.run_in_executor(None, sweep_abandoned)
                await stopping.wait()
                log.info("network %s stops", name)
                await sweeping
            finally:
                await presence.stop()
        finally:
            await network.stop()
    finally:
        if parent_end is not None:
            parent_end.close()


def _run(name: str, config: NetConfig, lock: NetworkLock, options: _Options, answer: Answer) -> None:
    """Decide where the network lives, go there while this process has one thread, and serve."""
    runtime_state = paths.runtime_state_file(name)
    state = State.open(runtime_state if options.ephemeral else paths.state_file(name))
    try:
        config = _config_of_killed_run(state, config, name)
        # Before entering a user namespace, to which root's directories are nobody's.
        record_dir = make_records_dir()
        serving = serve(
            name,
            config,
            state,
            lock,
            is_private=home().settle(config, state),
            record_dir=record_dir,
            parent=options.parent,
            answer=answer,
        )
        asyncio.run(serving)
    finally:
        state.close()


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container need not know its users by name
        return str(uid)


def _config_of_killed_run(state: State, config: NetConfig, name: str) -> NetConfig:
    """`up NAME` alone, after the process was killed, means the network as it was; any option means a new one."""
    meta = state.items("meta")
    if RUNNING not in meta or config != NetConfig(name=name):
        return config
    return config_from_mapping(meta["config"])


def _watch_parent(parent: int, stopping: asyncio.Event) -> ProcessEnd:
    """Set *stopping* when process *parent* ends."""
    try:
        end = platform().watch_process(parent)
    except OSError as error:
        raise StartFailed(f"the process that started this network (pid {parent}): {error.strerror}") from None
    asyncio.get_running_loop().add_reader(end.fileno(), stopping.set)
    if os.getppid() != parent:
        stopping.set()
    return end


def remove_leftovers(name: str) -> bool:
    """Remove what a dead process of network *name* left in the kernel. True when there was something.

    Raises AlreadyRunning when the network runs.
    """
    existed = paths.runtime_dir(name).exists()
    lock = NetworkLock(name)
    try:
        return _remove_leftovers(name) or existed
    finally:
        lock.release()


def _remove_leftovers(name: str) -> bool:
    """`remove_leftovers` for whoever holds the network's lock."""
    runtime_state = paths.runtime_state_file(name)
    ephemeral = runtime_state.exists()
    path = runtime_state if ephemeral else paths.state_file(name)
    place = home()
    found = place.has_leftovers(name)
    if path.exists():
        state = State.open(path)
        found = RUNNING in state.items("meta") or found
        place.remove_run(name, state)
        state.forget_run()
        state.close()
        if ephemeral:
            remove_state(path)
    place.remove_rest(name)
    return found


def sweep_abandoned() -> None:
    """Remove networks of library objects that were killed together with their network process: nobody else will."""
    # A network takes its lock before it makes its state, so what is found first and not locked then is dead.
    # Without a lock it is some other program's: the root may be a directory that is not ours alone.
    found = sorted(paths.runtime_root().glob("*/state.db"))
    found = [path for path in found if paths.lock_file(path.parent.name).is_file()]
    running = live_networks()
    for path in found:
        name = path.parent.name
        if name in running:
            continue
        try:
            lock = NetworkLock(name)  # its owner may be starting it anew, or another network be sweeping
        except ArcboxNetError:
            continue
        is_elsewhere = False
        try:
            if path.exists() and not (is_elsewhere := _is_elsewhere(path)):
                log.info("network %s was abandoned, removing what it left", name)
                _remove_leftovers(name)
        except ArcboxNetError as error:
            is_elsewhere = True
            log.warning("network %s was abandoned, and cannot be removed: %s", name, error)
        finally:
            lock.release(keep_directory=is_elsewhere)


def _is_elsewhere(path: Path) -> bool:
    state = State.open(path)
    try:
        return home().is_elsewhere(state)
    finally:
        state.close()


def _raise_nofile() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except ValueError:  # macOS says "unlimited", and takes so many
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, OPEN_MAX), hard))


@dataclasses.dataclass(slots=True)
class _Options:
    name: str
    ready_fd: int
    parent: int | None = None
    ephemeral: bool = False
    remove: bool = False


def _options(arguments: list[str]) -> _Options:
    """NAME --ready-fd N [--parent PID] [--ephemeral] [--remove], as `manager` writes them; argparse takes 6 ms."""
    values = dict(itertools.pairwise(arguments))
    parent = values.get("--parent")
    return _Options(
        name=arguments[0],
        ready_fd=int(values["--ready-fd"]),
        parent=int(parent) if parent is not None else None,
        ephemeral="--ephemeral" in arguments,
        remove="--remove" in arguments,
    )


def main(arguments: list[str] | None = None) -> int:
    gc.disable()  # nothing of the 400 modules that follow is garbage; on again when the network is ready
    options = _options(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    answer = Answer(options.ready_fd)
    lock: NetworkLock | None = None
    is_unfinished = False  # the end failed: the directory stays as a sign of that
    try:
        name = check_network_name(options.name)
        if options.remove:
            answer.tell({"removed": remove_leftovers(name)})
            return 0
        config = config_from_mapping(json.load(sys.stdin))
        _raise_nofile()
        lock = NetworkLock(name)
        log.info("network %s starts as pid %d", name, os.getpid())
        _run(name, config, lock, options, answer)
        if options.ephemeral:
            paths.log_file(name).unlink(missing_ok=True)
        return 0
    except ArcboxNetError as error:
        log.error("%s", error)
        is_unfinished = answer.told
        answer.tell({"error": error.to_json()})
        return 1
    except Exception as error:
        log.exception("network %s failed", options.name)
        is_unfinished = answer.told
        failed = StartFailed(
            f"the network process failed: {type(error).__name__}: {error}",
            fix=f"look at {paths.log_file(options.name)}",
            network=options.name,
        )
        answer.tell({"error": failed.to_json()})
        return 1
    finally:
        if lock is not None:
            lock.release(keep_directory=is_unfinished)


if __name__ == "__main__":
    sys.exit(main())
