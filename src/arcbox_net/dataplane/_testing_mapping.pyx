"""Port pools, guests and mappings for tests, one C call a method. Addresses are any numbers; ports are host order."""

from cython cimport final
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.guests cimport (
    EXTERNALS_MAX as _EXTERNALS_MAX, GUEST_NONE, GUESTS_MAX as _GUESTS_MAX,
    MACHINE_GUESTS_MAX as _MACHINE_GUESTS_MAX, PAID_AS_INCOMING as _PAID_AS_INCOMING,
    PAID_BY_GUEST, PAID_BY_OTHER as _PAID_BY_OTHER, flow_payer, guest, guest_find, guest_machine,
)
from arcbox_net.dataplane.machine cimport machine_of_forwards
from arcbox_net.dataplane.mapping cimport (
    MAPPING_NONE, MAPPING_STATIC, mapping, mapping_admits, mapping_at, mapping_config,
    mapping_drop, mapping_expire, mapping_find, mapping_forget, mapping_hold, mapping_inbound, mapping_next,
    mapping_outbound, mapping_strengthen, mapping_table,
)
from arcbox_net.dataplane.mapping_setup cimport mapping_free, mapping_init, mapping_reconfigure
from arcbox_net.dataplane.mapping_static cimport mapping_add_static, mapping_remove_static
from arcbox_net.dataplane.port_hold cimport port_hold
from arcbox_net.dataplane.port_pool cimport (
    PLACE_NONE, RANGES_MAX as _RANGES_MAX, place_of, pool_draw, pool_init, pool_return, pool_take, port_at, port_pool,
    port_range,
)
from arcbox_net.dataplane.random_ports cimport random_source
from arcbox_net.wire.octets cimport order_u16
from arcbox_net.wire.udp cimport PROTOCOL_UDP

GUESTS_MAX = _GUESTS_MAX
MACHINE_GUESTS_MAX = _MACHINE_GUESTS_MAX
PAID_AS_INCOMING = _PAID_AS_INCOMING
PAID_BY_OTHER = _PAID_BY_OTHER
EXTERNALS_MAX = _EXTERNALS_MAX
RANGES_MAX = _RANGES_MAX


@final
cdef class Pool:
    cdef port_pool _pool
    cdef random_source _random

    def __init__(self, ranges, bytes key):
        cdef port_range given[64]
        fill_ranges(given, ranges)
        memset(&self._random, 0, sizeof(random_source))
        memcpy(self._random.key, <const uint8_t *>key, 16)
        pool_init(&self._pool, given, len(ranges))

    def draw(self, uint32_t kinds):
        cdef uint32_t place = pool_draw(&self._pool, kinds, &self._random)
        return None if place == PLACE_NONE else port_at(place)

    def take(self, uint16_t port):
        pool_take(&self._pool, place_of(port))

    def give_back(self, uint16_t port):
        pool_return(&self._pool, place_of(port))


cdef void fill_ranges(port_range *given, ranges):
    for i, (first, last) in enumerate(ranges):
        given[i].first, given[i].last = first, last


@final
cdef class Mappings:
    cdef mapping_table _table

    def __init__(self, externals, bytes seed, **options):
        cdef mapping_config config
        fill_config(&config, externals, options)
        memcpy(config.seed, <const uint8_t *>seed, 32)
        if not mapping_init(&self._table, &config):
            raise MemoryError

    def reconfigure(self, externals, **options):
        cdef mapping_config config
        fill_config(&config, externals, options)
        return bool(mapping_reconfigure(&self._table, &config))

    def __dealloc__(self):
        mapping_free(&self._table)

    @property
    def count(self):
        return self._table.mappings

    @property
    def guest_count(self):
        return self._table.guests.count

    def outbound(self, uint8_t protocol, uint32_t ip, uint16_t port, uint32_t now, machine=None):
        """The mapping's number, or minus the drop reason. A machine is its address where no other is told."""
        cdef uint8_t why = 0
        cdef uint64_t key = ip if machine is None else machine
        cdef uint32_t id = mapping_outbound(&self._table, protocol, ip, order_u16(port), key, now, &why)
        return -<int>why if id == MAPPING_NONE else id

    def find(self, uint8_t protocol, uint32_t ip, uint16_t port):
        return number(mapping_find(&self._table, protocol, ip, order_u16(port)))

    def inbound(self, uint8_t protocol, uint32_t ip, uint16_t port):
        return number(mapping_inbound(&self._table, protocol, ip, order_u16(port)))

    def at(self, uint8_t protocol, uint32_t ip, uint16_t port):
        return number(mapping_at(&self._table, protocol, ip, order_u16(port)))

    def admits(self, uint32_t id, uint32_t remote):
        return bool(mapping_admits(&self._table, id, remote))

    def hold(self, uint32_t id, uint32_t remote, bint strong, int payer=PAID_BY_GUEST):
        return bool(mapping_hold(&self._table, id, remote, strong, <flow_payer>payer))

    def strengthen(self, uint32_t id, uint32_t remote):
        mapping_strengthen(&self._table, id, remote)

    def drop(self, uint32_t id, uint32_t remote, bint strong, uint32_t now, int payer=PAID_BY_GUEST):
        mapping_drop(&self._table, id, remote, strong, <flow_payer>payer, now)

    def forget(self, uint32_t id):
        mapping_forget(&self._table, id)

    def expire(self, uint32_t now, uint32_t budget):
        return mapping_expire(&self._table, now, budget)

    def next(self, uint32_t cursor):
        return number(mapping_next(&self._table, cursor))

    def entry(self, uint32_t id):
        """(protocol, inside, inside port, external, external port, strong, refs, static) of a mapping."""
        cdef const mapping *entry = &self._table.entries[id]
        return (
            entry.protocol, entry.inside_ip_be, order_u16(entry.inside_port_be), entry.external_ip_be,
            order_u16(entry.external_port_be), entry.strong, entry.refs, bool(entry.flags & MAPPING_STATIC),
        )

    def add_static(
        self, uint8_t protocol, uint32_t external, uint16_t external_port, uint32_t inside, uint16_t inside_port,
        uint32_t count,
    ):
        """The result, and the mapping that was looked at last: the one in the way, if one was."""
        cdef uint32_t taken = MAPPING_NONE
        cdef int result = mapping_add_static(
            &self._table, protocol, external, external_port, inside, inside_port, count, &taken
        )
        return result, taken

    def remove_static(
        self, uint8_t protocol, uint32_t external, uint16_t external_port, uint32_t count, uint32_t now
    ):
        return mapping_remove_static(&self._table, protocol, external, external_port, count, now)

    def guest(self, uint32_t ip, machine=None, bint forwards=False):
        """(flows of its machine, ports of each space, static mappings), or None for a stranger."""
        cdef uint64_t key = machine_of_forwards(ip) if forwards else ip if machine is None else machine
        cdef uint16_t id = guest_find(&self._table.guests, ip, key)
        cdef guest *who
        if id == GUEST_NONE:
            return None
        who = &self._table.guests.entries[id]
        return guest_machine(&self._table.guests, id).flows, tuple(who.ports), who.statics

    def find_all(self, const uint32_t[::1] endpoints):
        """How many of the UDP *endpoints* (a guest's number above its port of 16 bits) have a mapping."""
        cdef Py_ssize_t i
        cdef uint32_t found = 0
        with nogil:
            for i in range(endpoints.shape[0]):
                found += mapping_find(
                    &self._table, PROTOCOL_UDP, endpoints[i] >> 16, <uint16_t>endpoints[i]
                ) != MAPPING_NONE
        return found

    def open_all(self, const uint32_t[::1] endpoints, uint32_t now):
        """A mapping with a flow for each of the endpoints; how many there were to be had."""
        cdef Py_ssize_t i
        cdef uint32_t id
        cdef uint32_t opened = 0
        cdef uint8_t why
        with nogil:
            for i in range(endpoints.shape[0]):
                id = mapping_outbound(
                    &self._table, PROTOCOL_UDP, endpoints[i] >> 16, <uint16_t>endpoints[i], endpoints[i] >> 16, now,
                    &why,
                )
                opened += id != MAPPING_NONE and mapping_hold(&self._table, id, 1, True, PAID_BY_GUEST)
        return opened

    def close_all(self, const uint32_t[::1] endpoints, uint32_t now):
        """End what `open_all` opened."""
        cdef Py_ssize_t i
        with nogil:
            for i in range(endpoints.shape[0]):
                mapping_drop(
                    &self._table,
                    mapping_find(&self._table, PROTOCOL_UDP, endpoints[i] >> 16, <uint16_t>endpoints[i]),
                    1, True, PAID_BY_GUEST, now,
                )

    def bytes_per_mapping(self):
        """The mapping, its port's hold, and the two slots of the index that half load takes."""
        return sizeof(mapping) + sizeof(port_hold) + 2 * sizeof(uint32_t)


cdef number(uint32_t id):
    return None if id == MAPPING_NONE else id


cdef fill_config(mapping_config *config, dict externals, dict options):
    cdef int used = 0
    memset(config, 0, sizeof(mapping_config))
    for i, (address, ranges) in enumerate(externals.items()):
        config.externals[i].ip_be = address
        config.externals[i].first_range = used
        config.externals[i].range_count = len(ranges)
        fill_ranges(&config.ranges[used], ranges)
        used += len(ranges)
    config.external_count = len(externals)
    config.mappings_max = options["mappings_max"]
    config.contacts_max = options["contacts_max"]
    config.hold_down_s = options["hold_down_s"]
    config.quotas.flows = options["flows"]
    config.quotas.ports = options["ports"]
    config.filter = options["filtering"]
    config.preserve_ports = options["preserve_ports"]
    config.keep_parity = options["keep_parity"]
