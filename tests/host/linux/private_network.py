"""A stand-in for an ordinary user's network, and a guest below it: prints what the guest could do, as JSON.

Started as that user. The network is a process in a user namespace of its own, one thread of which is in a private
network namespace with a bridge and an nftables ruleset.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
from typing import Any

from arcbox_net.host.linux import guest_mounts, guest_process, inside, user_namespace
from arcbox_net.host.linux.guest_process import GuestProcess

IP, NFT = "/usr/sbin/ip", "/usr/sbin/nft"
_libc = ctypes.CDLL(None, use_errno=True)


def network() -> tuple[int, Any, Any]:
    """The pid of the network process, and files to write requests to and read answers from."""
    requests_in, requests_out = os.pipe()
    answers_in, answers_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(requests_out)
        inside.enter_user_namespace()
        thread = threading.Thread(target=serve, args=(os.fdopen(requests_in), os.fdopen(answers_out, "w")))
        thread.start()
        thread.join()
        os._exit(0)
    os.close(requests_in)
    os.close(answers_out)
    return pid, os.fdopen(requests_out, "w"), os.fdopen(answers_in)


def serve(requests: Any, answers: Any) -> None:
    inside.enter_network_namespace()
    subprocess.run([IP, "link", "add", "br0", "type", "bridge"], check=True)
    subprocess.run([NFT, "add table inet private"], check=True)
    print("ready", file=answers, flush=True)
    for line in requests:
        done = subprocess.run(line.split(), capture_output=True, text=True)
        print(json.dumps([done.returncode, done.stdout + done.stderr]), file=answers, flush=True)


def main() -> None:
    pid, requests, answers = network()
    answers.readline()

    def ask(command: str) -> list[Any]:
        print(command, file=requests, flush=True)
        found: list[Any] = json.loads(answers.readline())
        return found

    # A guest has these only if somebody leaks them to it: by itself it may not even open them.
    leaked = {
        "network's user": (os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), inside.CLONE_NEWUSER),
        "network's net": (user_namespace.private_netns(pid), inside.CLONE_NEWNET),
        "host's net": (os.open("/proc/self/ns/net", os.O_RDONLY), inside.CLONE_NEWNET),
    }
    result_in, result_out = os.pipe()

    def body(_order: dict[str, Any]) -> int:
        guest_process.started()
        with os.fdopen(result_out, "w") as result:
            json.dump(tried(pid, leaked), result)
        return 0

    guest = GuestProcess.fork(body, network_pid=pid)
    os.close(result_out)
    attached = ask(f"{IP} link add veth0 master br0 type veth peer name eth0 netns {guest.pid}")
    users = [os.stat(f"/proc/{number}/ns/user").st_ino for number in (os.getpid(), pid, guest.pid)]
    guest.release({})
    with os.fdopen(result_in) as result:
        found = json.load(result)
    os.waitpid(guest.pid, 0)
    entered = subprocess.run(
        [sys.executable, __file__, "enter", str(pid)], capture_output=True, text=True, check=True
    ).stdout
    found.update(
        attached=attached,
        namespaces=len(set(users)),
        entered=json.loads(entered),
        rules=ask(f"{NFT} list tables"),
        links=ask(f"{IP} -br link"),
    )
    print(json.dumps(found))
    requests.close()
    os.waitpid(pid, 0)


def tried(network_pid: int, leaked: dict[str, Any]) -> dict[str, Any]:
    """What the guest can do to itself, and to the network that it is a guest of."""
    return {
        "uid": os.getuid(),
        "own": [
            run(f"{IP} link set eth0 up"),
            run(f"{IP} addr add 192.0.2.2/24 dev eth0"),
            run(f"{NFT} add table inet mine"),
        ],
        "listens_on_80": listens(80),
        "entered_others": {name: can_enter(fd, kind) for name, (fd, kind) in leaked.items()},
        "opened": can_open(f"/proc/{network_pid}/ns/net"),
        "moved": run(f"{IP} link set eth0 netns {network_pid}")[0] == 0,
        "tables": run(f"{NFT} list tables")[1],
    }


def run(command: str) -> list[Any]:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    return [done.returncode, done.stdout + done.stderr]


def listens(l4_port: int) -> bool:
    """Whether a program without privileges, executed here, can bind a privileged port."""
    program = f"import socket; socket.create_server(('127.0.0.1', {l4_port}))"
    run(f"{IP} link set lo up")
    return subprocess.run([sys.executable, "-c", program]).returncode == 0


def can_enter(fd: int, kind: int) -> str:
    """`yes`, or the reason why not, tried in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = os.strerror(ctypes.get_errno()) if _libc.setns(fd, kind) != 0 else "yes"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def can_open(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return str(error.strerror)
    return "yes"


if __name__ == "__main__":
    if sys.argv[1:2] == ["enter"]:
        assert guest_process.enter(int(sys.argv[2]))
        assert guest_mounts.dress(None) == []
        print(json.dumps([run(f"{IP} -br link"), run(f"{NFT} list tables"), os.listdir("/sys/class/net")]))
    else:
        main()
