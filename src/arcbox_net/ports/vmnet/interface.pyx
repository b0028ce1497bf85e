"""Interfaces and networks of vmnet.framework, for control: each call may wait for the system, without the GIL.

Up to macOS 15 an interface makes its network: it needs root or an entitlement, and takes forwarding rules while it
runs. From macOS 26 on a `VmnetNetwork` may be made first, by anybody; rules and reservations are said before that.
"""

import ipaddress
import os
import socket
import threading

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.vmnet cimport (
    ABX_VMNET_NO_ANSWER, ABX_VMNET_TEXT_BYTES, abx_vmnet, abx_vmnet_bridgeable, abx_vmnet_facts, abx_vmnet_forward,
    abx_vmnet_forward_add, abx_vmnet_forward_remove, abx_vmnet_forwards, abx_vmnet_network, abx_vmnet_network_begin,
    abx_vmnet_network_forward, abx_vmnet_network_free, abx_vmnet_network_mtu, abx_vmnet_network_prefix,
    abx_vmnet_network_reserve, abx_vmnet_network_seal, abx_vmnet_network_subnet, abx_vmnet_network_uplink,
    abx_vmnet_network_without_dhcp, abx_vmnet_packet, abx_vmnet_read, abx_vmnet_start, abx_vmnet_stop, abx_vmnet_wish,
    abx_vmnet_write,
)

from arcbox_net.errors import ConfigError, NotRunning
from arcbox_net.ports.vmnet.options import VmnetForward, facts_of
from arcbox_net.ports.vmnet.status import raise_for

cdef enum:
    FORWARDS_MAX = 256  # that are listed
    BRIDGEABLE_MAX = 64

_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


cdef class VmnetNetwork:
    """A network of macOS 26: interfaces that start in it need neither root nor an entitlement.

    *forwards* (`VmnetForward`) and *reservations* (`VmnetReservation`) are the network's for as long as it lives;
    *uplink* is the interface that shared mode goes out by. Without *dhcp* guests get addresses from somebody else.
    It ends when nobody refers to it. Raises Unsupported before macOS 26, and what `raise_for` has.
    """

    def __init__(self, options, *, forwards=(), reservations=(), uplink="", dhcp=True):
        cdef uint32_t status
        cdef uint32_t mode = options.mode
        if self.network != NULL:
            raise ConfigError("a network is made once", field="network", value=str(options.mode))
        self.options = options
        with nogil:
            status = abx_vmnet_network_begin(mode, &self.network)
        raise_for(status, "creation", "a network")
        if uplink:
            raise_for(abx_vmnet_network_uplink(self.network, uplink.encode()), "uplink", uplink)
        self._make(forwards, reservations, dhcp)

    cdef object _make(self, forwards, reservations, dhcp):
        cdef abx_vmnet_forward forward
        cdef uint32_t status
        cdef bytes one, other
        options = self.options
        if options.subnet is not None:
            one, other = options.subnet[1].packed, options.subnet.netmask.packed
            status = abx_vmnet_network_subnet(
                self.network, <const uint8_t *><char *>one, <const uint8_t *><char *>other
            )
            raise_for(status, "subnet", str(options.subnet))
        if options.nat66_prefix is not None:
            one = options.nat66_prefix.network_address.packed
            status = abx_vmnet_network_prefix(
                self.network, <const uint8_t *><char *>one, options.nat66_prefix.prefixlen
            )
            raise_for(status, "IPv6 prefix", str(options.nat66_prefix))
        if options.mtu:
            raise_for(abx_vmnet_network_mtu(self.network, options.mtu), "MTU", str(options.mtu))
        if not dhcp:
            raise_for(abx_vmnet_network_without_dhcp(self.network), "DHCP", "a network")
        for reservation in reservations:
            one, other = bytes.fromhex(reservation.mac.replace(":", "")), reservation.address.packed
            if len(one) != 6:
                raise ConfigError("not a MAC address", field="mac", value=reservation.mac)
            status = abx_vmnet_network_reserve(
                self.network, <const uint8_t *><char *>one, <const uint8_t *><char *>other
            )
            raise_for(status, "reservation", reservation.mac)
        for rule in forwards:
            _fill_forward(&forward, rule)
            raise_for(abx_vmnet_network_forward(self.network, &forward), "forward", _name(rule))
        with nogil:
            status = abx_vmnet_network_seal(self.network)
        raise_for(status, "creation", "a network")

    def __dealloc__(self):
        if self.network != NULL:
            abx_vmnet_network_free(self.network)


cdef class VmnetInterface:
    """A started interface: `with VmnetInterface(options) as interface:` stops it. `facts` says what it became.

    In *network* it takes mode, subnet, prefix and MTU from there. Its packets are for one `VmnetPort` at a time.
    Threads may call it at once: one call waits for another.
    """

    def __cinit__(self):
        self.control = threading.Lock()
        self.signal_read = self.signal_write = -1

    def __init__(self, options, VmnetNetwork network=None):
        cdef abx_vmnet_wish wish
        cdef abx_vmnet_facts found
        cdef abx_vmnet_network *inside = NULL if network is None else network.network
        cdef uint32_t status
        if self.signal_read >= 0:
            raise ConfigError("an interface starts once", field="interface", value=str(options.mode))
        self.options = options
        self.network = network
        _fill_wish(&wish, options)
        self.signal_read, self.signal_write = os.pipe()
        os.set_blocking(self.signal_read, False)
        os.set_blocking(self.signal_write, False)
        with nogil:
            status = abx_vmnet_start(&wish, inside, self.signal_write, &self.interface, &found)
        try:
            raise_for(status, "start", f"a {options.mode.name.lower()} interface")
            self.facts = _facts(&found)
        except BaseException:
            if self.interface != NULL:
                status = abx_vmnet_stop(self.interface)
            self._end(status)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.stop()

    def __dealloc__(self):
        if self.interface != NULL:
            self._end(abx_vmnet_stop(self.interface))

    def stop(self):
        """Stop it; its port has left its worker before. Twice is fine. Raises ServiceError without an answer."""
        cdef abx_vmnet *interface
        cdef uint32_t status
        with self.control:
            interface = self.interface
            if interface == NULL:
                return
            self.interface = NULL
            with nogil:
                status = abx_vmnet_stop(interface)
            self._end(status)
            raise_for(status, "stop", "an interface")

    def add_forward(self, rule):
        """Have the host forward as *rule* says. Raises KernelError in a `VmnetNetwork`, which has its own rules."""
        self._change(abx_vmnet_forward_add, rule, "forward")

    def remove_forward(self, rule):
        self._change(abx_vmnet_forward_remove, rule, "removal")

    cdef int _change(self, forward_change change, rule, operation) except -1:
        cdef abx_vmnet_forward forward
        cdef abx_vmnet *interface
        cdef uint32_t status
        with self.control:
            interface = self._running()
            _fill_forward(&forward, rule)
            with nogil:
                status = change(interface, &forward)
            raise_for(status, operation, _name(rule))
        return 0

    def forwards(self):
        """The rules that the system has for this interface, `VmnetForward`s."""
        cdef abx_vmnet_forward found[FORWARDS_MAX]
        cdef abx_vmnet *interface
        cdef uint32_t status, count, i
        cdef uint8_t family
        rules = []
        for version, number in _FAMILIES.items():
            family = number
            count = FORWARDS_MAX
            with self.control:
                interface = self._running()
                with nogil:
                    status = abx_vmnet_forwards(interface, family, found, &count)
                raise_for(status, "listing", "forwards")
            for i in range(count):
                size = 4 if version == 4 else 16
                address = ipaddress.ip_address((<char *>found[i].internal_address)[:size])
                protocol = _PROTOCOL_NAMES.get(found[i].protocol, str(found[i].protocol))
                rules.append(VmnetForward(protocol, found[i].external_port, address, found[i].internal_port))
        return rules

    cdef abx_vmnet *_running(self) except NULL:
        if self.interface == NULL:
            raise NotRunning("the interface is stopped", network=None)
        return self.interface

    cdef int _end(self, uint32_t status) except -1:
        """It is stopped. Of a service that did not answer, callbacks may come yet: what they write to stays open."""
        self.interface = NULL
        if status != ABX_VMNET_NO_ANSWER:
            os.close(self.signal_write)
        os.close(self.signal_read)
        return 0


def bridgeable_interfaces():
    """The names of the host's interfaces that bridged mode takes."""
    cdef char names[BRIDGEABLE_MAX][64]
    cdef uint32_t i, count = BRIDGEABLE_MAX
    with nogil:
        abx_vmnet_bridgeable(names, &count)
    return [names[i].decode() for i in range(count)]


cdef uint32_t interface_read(abx_vmnet *interface, abx_vmnet_packet *packets, int *count) noexcept nogil:
    return abx_vmnet_read(interface, packets, count)


cdef uint32_t interface_write(abx_vmnet *interface, abx_vmnet_packet *packets, int *count) noexcept nogil:
    return abx_vmnet_write(interface, packets, count)


cdef int _fill_wish(abx_vmnet_wish *wish, options) except -1:
    memset(wish, 0, sizeof(abx_vmnet_wish))
    wish.mode = options.mode
    wish.mtu = options.mtu
    wish.isolated = options.isolated
    wish.tso = wish.virtio_headers = options.offloads
    wish.checksums = options.checksums
    for name, text in options.texts().items():
        _put(wish, name, text.encode())
    return 0


cdef int _put(abx_vmnet_wish *wish, name, bytes text) except -1:
    cdef char *into
    if len(text) >= ABX_VMNET_TEXT_BYTES:
        raise ConfigError(f"{name} is too long", field=name, value=text.decode())
    if name == "start_address":
        into = wish.start_address
    elif name == "end_address":
        into = wish.end_address
    elif name == "subnet_mask":
        into = wish.subnet_mask
    elif name == "nat66_prefix":
        into = wish.nat66_prefix
    elif name == "interface_id":
        into = wish.interface_id
    elif name == "network_identifier":
        into = wish.network_identifier
    else:
        into = wish.shared_interface
    memcpy(into, <char *>text, len(text))
    return 0


cdef object _facts(const abx_vmnet_facts *found):
    numbers = {
        "mtu": found.mtu,
        "max_packet_bytes": found.max_packet_bytes,
        "read_max_packets": found.read_max_packets,
        "write_max_packets": found.write_max_packets,
        "virtio_headers": found.virtio_headers,
        "tso": found.tso,
        "checksums": found.checksums,
    }
    texts = {
        "mac": found.mac,
        "start_address": found.start_address,
        "end_address": found.end_address,
        "subnet_mask": found.subnet_mask,
        "nat66_prefix": found.nat66_prefix,
        "interface_id": found.interface_id,
    }
    return facts_of(numbers, {name: text.decode() for name, text in texts.items()})


cdef int _fill_forward(abx_vmnet_forward *forward, rule) except -1:
    cdef bytes address = rule.internal_address.packed
    if rule.protocol not in _PROTOCOLS:
        raise ConfigError("expected tcp or udp", field="protocol", value=rule.protocol)
    memset(forward, 0, sizeof(abx_vmnet_forward))
    forward.protocol = _PROTOCOLS[rule.protocol]
    forward.family = _FAMILIES[rule.internal_address.version]
    forward.external_port = rule.external_port
    forward.internal_port = rule.internal_port
    memcpy(forward.internal_address, <char *>address, len(address))
    return 0


def _name(rule):
    return f"{rule.protocol} port {rule.external_port}"
