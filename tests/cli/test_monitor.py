"""The flags that VM monitors get."""

from __future__ import annotations

import pytest

from arcbox_net.cli.monitor import (
    CLOUD_HYPERVISOR,
    FIRECRACKER,
    KRUNKIT,
    QEMU,
    VFKIT,
    Nic,
    choose_via,
    firecracker_config,
    monitor_of,
    wanted_mac,
    with_nic,
)
from arcbox_net.errors import ConfigError
from arcbox_net.host.linux.platform import PORT_KINDS as LINUX_KINDS
from arcbox_net.host.macos.platform import PORT_KINDS as MACOS_KINDS

MAC = "02:00:00:00:00:01"
ONE = Nic(MAC, 1500, (7,))
FOUR = Nic(MAC, 9000, (7, 8, 9, 10))


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("qemu-system-x86_64", QEMU),
        ("/usr/bin/qemu-system-aarch64", QEMU),
        ("qemu-kvm", QEMU),
        ("/usr/libexec/qemu-kvm", QEMU),
        ("kvm", QEMU),
        ("cloud-hypervisor", CLOUD_HYPERVISOR),
        ("./firecracker", FIRECRACKER),
        ("/opt/homebrew/bin/vfkit", VFKIT),
        ("krunkit", KRUNKIT),
        ("qemu-img", None),
        ("curl", None),
        ("bash", None),
    ],
)
def test_a_vm_monitor_is_known_by_its_name(program: str, kind: str | None) -> None:
    assert monitor_of([program, "-h"]) == kind


@pytest.mark.parametrize(
    ("words", "nic", "added"),
    [
        (
            "qemu-system-x86_64 -m 1G",
            ONE,
            f"-netdev tap,id=abx0,fd=7,vhost=off -device virtio-net-pci,netdev=abx0,mac={MAC},host_mtu=1500",
        ),
        (
            "qemu-system-x86_64",
            FOUR,
            "-netdev tap,id=abx0,fds=7:8:9:10,vhost=off "
            f"-device virtio-net-pci,netdev=abx0,mac={MAC},host_mtu=9000,mq=on,vectors=10",
        ),
        (
            "qemu-system-x86_64 -M microvm,acpi=off",
            ONE,
            "-netdev tap,id=abx0,fd=7,vhost=off "
            f"-device virtio-net-device,netdev=abx0,mac={MAC},host_mtu=1500",
        ),
        (
            "qemu-system-s390x",
            ONE,
            f"-netdev tap,id=abx0,fd=7,vhost=off -device virtio-net-ccw,netdev=abx0,mac={MAC},host_mtu=1500",
        ),
        (
            "qemu-system-x86_64 -device e1000,netdev=abx0,mac=02:00:00:00:00:09",
            ONE,
            "-netdev tap,id=abx0,fd=7,vhost=off",
        ),
        ("cloud-hypervisor --kernel k", ONE, f"--net fd=7,mac={MAC},mtu=1500"),
        ("cloud-hypervisor", FOUR, f"--net fd=[7,8,9,10],mac={MAC},mtu=9000,num_queues=8"),
    ],
)
def test_the_card_is_added_after_what_the_user_wrote(words: str, nic: Nic, added: str) -> None:
    command = words.split()
    kind = monitor_of(command)
    assert kind is not None
    assert with_nic(kind, command, nic) == command + added.split()


def test_the_users_own_card_gets_the_ports_mac_when_it_names_none() -> None:
    command = ["qemu-system-x86_64", "-device", "e1000e,netdev=abx0,id=card", "-m", "1G"]
    assert with_nic(QEMU, command, ONE)[2] == f"e1000e,netdev=abx0,id=card,mac={MAC}"
    assert wanted_mac(command) is None


def test_the_users_own_mac_is_the_ports() -> None:
    assert wanted_mac(["qemu-system-x86_64", "-device", "e1000,mac=02:00:00:00:00:09,netdev=abx0"]) == (
        "02:00:00:00:00:09"
    )


@pytest.mark.parametrize("flag", ["-netdev", "--netdev"])
def test_a_netdev_of_that_id_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="abx0"):
        with_nic(QEMU, ["qemu-system-x86_64", flag, "user,id=abx0"], ONE)


def test_other_cards_of_the_user_stay_as_they_are() -> None:
    command = ["qemu-system-x86_64", "-netdev", "user,id=n1", "-device", "e1000,netdev=n1"]
    assert with_nic(QEMU, command, ONE)[: len(command)] == command


def test_cloud_hypervisors_one_net_flag_takes_ours_as_well() -> None:
    command = ["cloud-hypervisor", "--net", "tap=tap0", "--kernel", "k"]
    assert with_nic(CLOUD_HYPERVISOR, command, ONE) == [
        "cloud-hypervisor",
        "--net",
        f"fd=7,mac={MAC},mtu=1500",
        "tap=tap0",
        "--kernel",
        "k",
    ]


def test_firecrackers_configuration_gets_the_tap_beside_its_own() -> None:
    document = {"boot-source": {}, "network-interfaces": [{"iface_id": "eth9"}, {"iface_id": "abx0", "x": 1}]}
    assert firecracker_config(document, "abx-0_1", MAC) == {
        "boot-source": {},
        "network-interfaces": [
            {"iface_id": "eth9"},
            {"iface_id": "abx0", "host_dev_name": "abx-0_1", "guest_mac": MAC},
        ],
    }


@pytest.mark.parametrize("document", [[], 1, None, {"network-interfaces": {}}])
def test_what_is_no_firecracker_configuration_is_refused(document: object) -> None:
    with pytest.raises(ConfigError):
        firecracker_config(document, "abx-0_1", MAC)


CARD = f"-device virtio-net-pci,netdev=abx0,mac={MAC},host_mtu=1500"


def at_socket(via: str, qemu: tuple[int, int] | None = None, queues: int = 1) -> Nic:
    return Nic(MAC, 1500, via=via, socket="/s", guest_socket="/g", queues=queues, qemu=qemu)


@pytest.mark.parametrize(
    ("nic", "added"),
    [
        (at_socket("stream"), "-netdev stream,id=abx0,server=off,addr.type=unix,addr.path=/s"),
        (at_socket("stream", (7, 2)), "-netdev stream,id=abx0,server=off,addr.type=unix,addr.path=/s"),
        (
            at_socket("stream", (8, 0)),
            "-netdev stream,id=abx0,server=off,addr.type=unix,addr.path=/s,reconnect=1",
        ),
        (
            at_socket("stream", (10, 0)),
            "-netdev stream,id=abx0,server=off,addr.type=unix,addr.path=/s,reconnect-ms=1000",
        ),
        (
            at_socket("dgram", (10, 0)),
            "-netdev dgram,id=abx0,local.type=unix,local.path=/g,remote.type=unix,remote.path=/s",
        ),
        (
            at_socket("vhost-user", (7, 2)),
            "-chardev socket,id=abx0c,path=/s,reconnect=1 -netdev vhost-user,id=abx0,chardev=abx0c,queues=1"
            " -object memory-backend-memfd,id=abx0mem,size=128M,share=on -machine memory-backend=abx0mem",
        ),
    ],
)
def test_qemu_gets_a_card_at_a_socket_that_reconnects_where_that_qemu_can(nic: Nic, added: str) -> None:
    words = ["qemu-system-x86_64"]
    card = CARD + (",vectors=0" if nic.via == "vhost-user" else "")
    assert with_nic(QEMU, words, nic) == [*words, *added.split(), *card.split()]


def test_qemu_that_crashes_with_vectors_gets_none_unless_it_has_kvm() -> None:
    def card(*words: str, qemu: tuple[int, int]) -> str:
        return with_nic(QEMU, ["qemu-system-x86_64", *words], at_socket("vhost-user", qemu))[-1]

    assert card(qemu=(7, 2)).endswith(",vectors=0")
    assert "vectors" not in card(qemu=(10, 0))
    for words in (["-enable-kvm"], ["-accel", "kvm"], ["-machine", "q35,accel=kvm"]):
        assert "vectors" not in card(*words, qemu=(7, 2))


def test_several_queues_of_vhost_user_have_their_vectors() -> None:
    words = with_nic(QEMU, ["qemu-system-x86_64"], at_socket("vhost-user", queues=2))
    assert "vhost-user,id=abx0,chardev=abx0c,queues=2" in words and words[-1].endswith("mq=on,vectors=6")


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("-m 1G", "1G"),
        ("-m 512", "512M"),
        ("-m size=2G,slots=2,maxmem=4G", "2G"),
        ("-m 1024MB", "1024M"),
        ("", "128M"),
    ],
)
def test_guest_memory_is_shared_in_the_size_that_the_user_gave(words: str, size: str) -> None:
    command = with_nic(QEMU, ["qemu-system-x86_64", *words.split()], at_socket("vhost-user"))
    assert f"memory-backend-memfd,id=abx0mem,size={size},share=on" in command


def test_memory_that_is_shared_already_is_left_alone() -> None:
    own = ["-object", "memory-backend-memfd,id=m,size=1G,share=on", "-machine", "q35,memory-backend=m"]
    command = with_nic(QEMU, ["qemu-system-x86_64", *own], at_socket("vhost-user"))
    assert command.count("-object") == command.count("-machine") == 1


@pytest.mark.parametrize(
    "words",
    [
        "-object memory-backend-ram,id=m,size=1G",
        "-object memory-backend-memfd,id=m,size=1G",
        "-machine q35,memory-backend=m",
        "-numa node",
        "-mem-path /dev/hugepages",
        "-m lots",
    ],
)
def test_memory_that_cannot_be_shared_is_refused(words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        with_nic(QEMU, ["qemu-system-x86_64", *words.split()], at_socket("vhost-user"))
    assert words.split()[0] in str(refused.value)


def test_cloud_hypervisor_takes_vhost_user_with_shared_memory_only() -> None:
    words = ["cloud-hypervisor", "--memory", "size=1G,shared=on"]
    net = f"vhost_user=true,socket=/s,mac={MAC},mtu=1500,num_queues=4"
    assert with_nic(CLOUD_HYPERVISOR, words, at_socket("vhost-user", queues=2)) == [*words, "--net", net]
    with pytest.raises(ConfigError, match="shared"):
        with_nic(CLOUD_HYPERVISOR, words[:1], at_socket("vhost-user"))


@pytest.mark.parametrize(
    ("kind", "wanted", "linux", "macos"),
    [
        (QEMU, None, "tap", "stream"),
        (QEMU, "dgram", "dgram", "dgram"),
        (CLOUD_HYPERVISOR, None, "tap", "tap"),
        (VFKIT, None, "dgram", "dgram"),
        (KRUNKIT, "dgram", "dgram", "dgram"),
    ],
)
def test_a_monitor_gets_the_best_card_that_it_and_the_network_have(
    kind: str, wanted: str | None, linux: str, macos: str
) -> None:
    assert choose_via(kind, wanted, LINUX_KINDS) == linux
    assert choose_via(kind, wanted, MACOS_KINDS) == macos


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [(CLOUD_HYPERVISOR, "stream"), (FIRECRACKER, "dgram"), (VFKIT, "tap"), (KRUNKIT, "vhost-user")],
)
def test_a_card_that_the_monitor_has_not_is_refused(kind: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted) as refused:
        choose_via(kind, wanted, LINUX_KINDS)
    assert "--via" in str(refused.value.fix)


@pytest.mark.parametrize("kind", [VFKIT, KRUNKIT])
def test_vfkit_and_krunkit_get_a_device_at_the_socket(kind: str) -> None:
    words = [kind, "--cpus", "2"]
    device = f"virtio-net,unixSocketPath=/s,mac={MAC}"
    assert with_nic(kind, words, at_socket("dgram")) == [*words, "--device", device]
