"""TCP options (RFC 9293 3.2, 7323, 2018): read in one walk, and the MSS clamped. `tcp_check` runs first."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.checksum cimport checksum_apply, checksum_delta16, checksum_delta_odd
from arcbox_net.wire.octets cimport load_u16, load_u16_be, load_u32, store_u16
from arcbox_net.wire.tcp cimport (
    TCP_HEADER_BYTES, TCP_SYN, tcp_checksum_be, tcp_flags, tcp_header_size, tcp_set_checksum_be,
)

cdef enum:
    TCP_OPTION_END = 0
    TCP_OPTION_NOP = 1
    TCP_OPTION_MSS = 2
    TCP_OPTION_WINDOW_SCALE = 3
    TCP_OPTION_SACK_PERMITTED = 4
    TCP_OPTION_TIMESTAMPS = 8
    TCP_MSS_BYTES = 4
    TCP_WINDOW_SCALE_BYTES = 3
    TCP_SACK_PERMITTED_BYTES = 2
    TCP_TIMESTAMPS_BYTES = 10
    TCP_WINDOW_SCALE_MAX = 14  # RFC 7323 2.3: a larger one is taken for it

cdef struct tcp_options:
    uint32_t mss_offset  # of the option's number in the header; 0: no such option
    uint32_t timestamp
    uint32_t timestamp_echo
    uint16_t mss
    uint8_t window_scale
    bint has_window_scale
    bint has_timestamps
    bint sack_permitted


cdef inline void _tcp_read_option(
    tcp_options *options, const uint8_t *p, uint32_t at, uint32_t size, bint syn
) noexcept nogil:
    """One option of *size* bytes. One whose size is not that of its kind is passed over, as Linux does."""
    cdef uint8_t kind = p[at]
    if kind == TCP_OPTION_TIMESTAMPS and size == TCP_TIMESTAMPS_BYTES:
        options.has_timestamps = True
        options.timestamp = load_u32(p + at + 2)
        options.timestamp_echo = load_u32(p + at + 6)
    elif not syn:
        return  # the others are agreed on by SYNs only
    elif kind == TCP_OPTION_MSS and size == TCP_MSS_BYTES:
        options.mss_offset = at + 2
        options.mss = load_u16(p + at + 2)
    elif kind == TCP_OPTION_WINDOW_SCALE and size == TCP_WINDOW_SCALE_BYTES:
        options.has_window_scale = True
        options.window_scale = min(p[at + 2], <uint8_t>TCP_WINDOW_SCALE_MAX)
    elif kind == TCP_OPTION_SACK_PERMITTED and size == TCP_SACK_PERMITTED_BYTES:
        options.sack_permitted = True


cdef inline bint tcp_read_options(const uint8_t *p, tcp_options *options) noexcept nogil:
    """False when an option leads outside the header or does not count itself; what was read by then stays.

    At most 40 steps: each takes a byte of the header at least.
    """
    cdef uint32_t at = TCP_HEADER_BYTES, size = tcp_header_size(p)
    cdef bint syn = tcp_flags(p) & TCP_SYN != 0
    options[0] = tcp_options(0, 0, 0, 0, 0, False, False, False)
    while at < size and p[at] != TCP_OPTION_END:
        if p[at] == TCP_OPTION_NOP:
            at += 1
            continue
        if size - at < 2 or p[at + 1] < 2 or p[at + 1] > size - at:
            return False
        _tcp_read_option(options, p, at, p[at + 1], syn)
        at += p[at + 1]
    return True


cdef inline bint tcp_clamp_mss(uint8_t *p, const tcp_options *options, uint16_t mss_max, bint partial) noexcept nogil:
    """Lower the MSS of a SYN to *mss_max*; whether it was larger. A *partial* checksum does not cover it yet."""
    cdef uint16_t old_be, new_be
    cdef uint32_t delta
    if options.mss_offset == 0 or options.mss <= mss_max:
        return False
    old_be = load_u16_be(p + options.mss_offset)
    store_u16(p + options.mss_offset, mss_max)
    if not partial:
        new_be = load_u16_be(p + options.mss_offset)
        if options.mss_offset % 2:
            delta = checksum_delta_odd(old_be, new_be)
        else:
            delta = checksum_delta16(old_be, new_be)
        tcp_set_checksum_be(p, checksum_apply(tcp_checksum_be(p), delta))
    return True
