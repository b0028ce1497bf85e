"""From a checked `NatEngineConfig` to an engine's state, and back to free memory."""

import os
from hashlib import shake_256
from ipaddress import IPv6Network

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.address_table cimport ADDRESS_NONE, address_table_free, address_table_init
from arcbox_net.dataplane.conntrack cimport (
    PORT_TIMEOUTS_MAX, conntrack_free, conntrack_init, flow_timeouts,
)
from arcbox_net.dataplane.emitter cimport emitter_free, emitter_init
from arcbox_net.dataplane.engine_listing cimport address_be_of, address_held, address_of
from arcbox_net.dataplane.engine_state cimport UNTRANSLATED_MAX, nat_engine, nat_prefix, nat_settings
from arcbox_net.dataplane.fragment cimport fragment_ids_init
from arcbox_net.dataplane.guests cimport EXTERNALS_MAX, GUESTS_MAX
from arcbox_net.dataplane.mapping cimport (
    FILTER_ADDRESS_AND_PORT_DEPENDENT, FILTER_ADDRESS_DEPENDENT, FILTER_ENDPOINT_INDEPENDENT,
    mapping_config,
)
from arcbox_net.dataplane.mapping_setup cimport mapping_free, mapping_init
from arcbox_net.dataplane.nat_open cimport nat_flow_gone
from arcbox_net.dataplane.port_pool cimport RANGES_MAX
from arcbox_net.dataplane.reassembly cimport reassembly_free, reassembly_init
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND
from arcbox_net.wire.icmp cimport ICMP_HOST_UNREACHABLE, ICMP_PROHIBITED
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES
from arcbox_net.wire.octets cimport order_u16

from arcbox_net.errors import LimitReached

cdef enum:
    # conntrack 2, mappings 4, reassembly 2, identifications 2, addresses 2
    SEED_WORDS = 12
    # Ports that forwards may take beside those of the flows.
    STATIC_PORTS_MAX = 65536
    # Of a packet while it is looked at. Each flow has one address that is no guest's and not ours.
    ADDRESSES_IN_HAND = 2

_FILTERS = {
    "endpoint-independent": FILTER_ENDPOINT_INDEPENDENT,
    "address-dependent": FILTER_ADDRESS_DEPENDENT,
    "address-and-port-dependent": FILTER_ADDRESS_AND_PORT_DEPENDENT,
}


cdef int engine_make(nat_engine *engine, config) except -1:
    """Fill *engine*, which is all zero. When it raises, `engine_free` is due all the same."""
    cdef uint64_t seed[SEED_WORDS]
    cdef flow_timeouts timeouts
    cdef mapping_config mappings
    cdef const unsigned char[::1] random = (
        os.urandom(sizeof(seed)) if config.seed is None else shake_256(config.seed).digest(sizeof(seed))
    )
    memcpy(seed, &random[0], sizeof(seed))
    setup_settings(&engine.settings, config, &seed[8])
    setup_timeouts(&timeouts, config)
    if not address_table_init(
        &engine.addresses, config.conntrack_size + GUESTS_MAX + EXTERNALS_MAX + ADDRESSES_IN_HAND, &seed[10]
    ):
        raise MemoryError("IPv6 addresses")
    setup_mappings(engine, &mappings, config)
    memcpy(mappings.seed, &seed[2], sizeof(mappings.seed))
    if not conntrack_init(&engine.flows, config.conntrack_size, config.fast_cache_size, &seed[0], &timeouts):
        raise MemoryError(f"{config.conntrack_size} flows")
    engine.flows.gone = nat_flow_gone
    engine.flows.owner = engine
    if not mapping_init(&engine.mappings, &mappings):
        raise MemoryError(f"{mappings.mappings_max} mappings")
    if not emitter_init(&engine.emitted):
        raise MemoryError("frames that the engine makes")
    if not reassembly_init(&engine.fragments, &seed[6]):
        raise MemoryError("fragments")
    fragment_ids_init(&engine.ids, &seed[8])
    engine.answers.out = &engine.emitted
    setup_answers(engine)
    return 0


cdef void engine_free(nat_engine *engine) noexcept nogil:
    conntrack_free(&engine.flows)
    address_table_free(&engine.addresses)
    mapping_free(&engine.mappings)
    emitter_free(&engine.emitted)
    reassembly_free(&engine.fragments)


cdef int setup_settings(nat_settings *settings, config, const uint64_t *machine_seed) except -1:
    cdef const unsigned char[::1] mask6 = IPv6Network((0, config.guest_prefix6)).netmask.packed
    memset(settings, 0, sizeof(nat_settings))
    settings.machines.by_link = config.guest_by == "link-address"
    memcpy(settings.machines.mask6, &mask6[0], IPV6_ADDRESS_BYTES)
    memcpy(settings.machines.seed, machine_seed, sizeof(settings.machines.seed))
    settings.inside = _prefix(config.inside_network)
    settings.gateway_be = address_be_of(config.gateway_address)
    for address, _ranges in config.externals():
        _check_room(settings.external_count, EXTERNALS_MAX)
        settings.externals_be[settings.external_count] = address_be_of(address)
        settings.external_count += 1
    for network in config.untranslated_networks:
        _check_room(settings.untranslated_count, UNTRANSLATED_MAX)
        settings.untranslated[settings.untranslated_count] = _prefix(network)
        settings.untranslated_count += 1
    if config.external_ip6 is not None:
        inside6 = config.inside6_network
        settings.has_ipv6 = True
        memcpy(settings.inside6.address, <const char *>inside6.network_address.packed, IPV6_ADDRESS_BYTES)
        memcpy(settings.inside6.mask, <const char *>inside6.netmask.packed, IPV6_ADDRESS_BYTES)
        memcpy(settings.gateway6, <const char *>config.gateway6_address.packed, IPV6_ADDRESS_BYTES)
    settings.mtu[<int>OUTBOUND] = config.uplink_mtu
    settings.mtu[<int>INBOUND] = config.mtu
    settings.exhausted_code = ICMP_PROHIBITED if config.exhausted == "prohibited" else ICMP_HOST_UNREACHABLE
    settings.refuse_unsolicited = config.unsolicited_syn == "refuse"
    settings.reset_unknown = config.reset_unknown
    settings.isolated = config.isolated
    return 0


cdef int setup_timeouts(flow_timeouts *timeouts, config) except -1:
    memset(timeouts, 0, sizeof(flow_timeouts))
    timeouts.tcp_opening_s = config.tcp_partial_timeout_s
    timeouts.tcp_established_s = config.tcp_established_timeout_s
    timeouts.tcp_closing_s = config.tcp_closing_timeout_s
    timeouts.tcp_reset_s = config.tcp_reset_timeout_s
    timeouts.udp_s = config.udp_timeout_s
    timeouts.icmp_s = config.icmp_timeout_s
    timeouts.inbound_refresh = config.inbound_refresh
    for number, timeout_s in config.udp_port_timeouts_s.items():
        _check_room(timeouts.port_count, PORT_TIMEOUTS_MAX)
        timeouts.ports[timeouts.port_count].port_be = order_u16(number)
        timeouts.ports[timeouts.port_count].timeout_s = timeout_s
        timeouts.port_count += 1
    return 0


cdef void setup_answers(nat_engine *engine) noexcept nogil:
    engine.answers.machines = engine.settings.machines
    engine.answers.gateway_be = engine.settings.gateway_be
    memcpy(engine.answers.gateway6, engine.settings.gateway6, IPV6_ADDRESS_BYTES)


cdef int setup_mappings(nat_engine *engine, mapping_config *mappings, config) except -1:
    """All but the seed."""
    cdef uint32_t external, place = 0
    memset(mappings, 0, sizeof(mapping_config))
    for external, (address, ranges) in enumerate([*config.externals(), *config.externals6()]):
        _check_room(external, EXTERNALS_MAX)
        mappings.externals[external].ip_be = _external_number(engine, address)
        mappings.externals[external].first_range = place
        mappings.externals[external].range_count = len(ranges)
        mappings.external_count += 1
        for first, last in ranges:
            _check_room(place, RANGES_MAX)
            mappings.ranges[place].first = first
            mappings.ranges[place].last = last
            place += 1
    mappings.addresses = &engine.addresses
    mappings.mappings_max = config.conntrack_size + STATIC_PORTS_MAX
    if config.filtering == "address-dependent":  # nobody else asks for them
        mappings.contacts_max = 2 * config.conntrack_size  # a flow between guests is one of each
    mappings.hold_down_s = config.port_hold_s
    mappings.quotas.flows = config.flows_per_guest
    mappings.quotas.ports = config.ports_per_guest or 0
    mappings.filter = _FILTERS[config.filtering]
    mappings.preserve_ports = config.preserve_ports
    mappings.keep_parity = config.port_parity
    return 0


cdef uint32_t _external_number(nat_engine *engine, address) except? 0:
    """The number of one of our addresses; it is held for the engine's life."""
    cdef uint32_t number_be = address_of(engine, address)
    return number_be if number_be != ADDRESS_NONE else address_held(engine, address)


cdef int _check_room(uint32_t taken, uint32_t most) except -1:
    """The lists of a configuration are its owner's, and may have grown since they were checked."""
    if taken >= most:
        raise LimitReached(f"a list of the configuration has more than {most} entries", limit="entries", value=most)
    return 0


cdef nat_prefix _prefix(network) except *:
    cdef nat_prefix prefix
    prefix.address_be = address_be_of(network.network_address)
    prefix.mask_be = address_be_of(network.netmask)
    return prefix
