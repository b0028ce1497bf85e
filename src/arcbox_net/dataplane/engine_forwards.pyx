"""A `NatForward` in an engine's tables: added as a whole or not at all."""

from ipaddress import ip_address, ip_network

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.address_table cimport address_drop
from arcbox_net.dataplane.engine_listing cimport address_held, address_of, mapping_view, protocol_of
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.mapping_static cimport (
    STATIC_BAD_RANGE, STATIC_DONE, STATIC_GUESTS_FULL, STATIC_NO_EXTERNAL, STATIC_PORT_TAKEN,
    mapping_add_static, mapping_find_again, mapping_remove_static, static_result,
)

from arcbox_net.errors import ConfigError, ForwardExists, LimitReached


cdef int forward_add(nat_engine *engine, forward) except -1:
    """Lead the forward's ports to its guest. Raises with nothing added."""
    cdef uint32_t taken = 0
    cdef uint32_t external_be = address_of(engine, forward.external_ip), inside_be
    cdef static_result result = STATIC_BAD_RANGE
    last = max(forward.external_port, forward.inside_port) + forward.port_count - 1
    if min(forward.external_port, forward.inside_port, forward.port_count) > 0 and last <= 65535:
        inside_be = address_held(engine, forward.inside_ip)
        result = mapping_add_static(
            &engine.mappings, protocol_of(forward.protocol), external_be, forward.external_port, inside_be,
            forward.inside_port, forward.port_count, &taken,
        )
        address_drop(&engine.addresses, inside_be)
    if result != STATIC_DONE:
        raise _error(engine, forward, result, taken)
    return 0


cdef void forward_remove(nat_engine *engine, forward):
    """Take the forward's ports away. Their flows stay."""
    mapping_remove_static(
        &engine.mappings, protocol_of(forward.protocol), address_of(engine, forward.external_ip), forward.external_port,
        forward.port_count, engine.now_s,
    )


cdef void forward_gone(nat_engine *engine, forward):
    """After the flows of a removed forward ended too: its guest has its other mappings again."""
    mapping_find_again(
        &engine.mappings, protocol_of(forward.protocol), address_of(engine, forward.inside_ip), forward.inside_port,
        forward.port_count,
    )


cdef int forwards_check(forwards, config) except -1:
    """Raise ConfigError if *config* leaves the guest of one of the *forwards* outside."""
    for forward in forwards:
        guest = ip_address(forward.inside_ip)
        inside = config.inside if guest.version == 4 else config.inside6
        if inside is None or guest not in ip_network(inside):
            raise ConfigError(
                f"{forward.protocol} port {forward.external_port} is forwarded to {guest}, which is not in {inside}",
                fix="remove the forward first",
                field="inside" if guest.version == 4 else "inside6",
                value=inside,
            )
    return 0


cdef object _error(nat_engine *engine, forward, static_result result, uint32_t taken):
    if result == STATIC_PORT_TAKEN:
        existing = mapping_view(engine, taken)
        return ForwardExists(
            f"{forward.protocol} port {existing.external.number} of {forward.external_ip} is in use by "
            f"{existing.inside.address}",
            rule=forward,
            existing=existing,
        )
    if result == STATIC_NO_EXTERNAL:
        return ConfigError(
            f"{forward.external_ip} is no external address", field="external_ip", value=forward.external_ip
        )
    if result == STATIC_BAD_RANGE:
        return ConfigError(
            f"{forward.port_count} ports from {forward.external_port} to {forward.inside_port} leave 1-65535",
            field="external_port",
            value=forward.external_port,
        )
    limit = "guests" if result == STATIC_GUESTS_FULL else "mappings"
    return LimitReached(f"the table of {limit} is full", limit=limit, value=forward.port_count)
