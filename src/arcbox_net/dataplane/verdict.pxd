"""What becomes of a frame: one byte, a verdict below DROP_FIRST or the reason of a drop."""

cpdef enum Direction:
    OUTBOUND = 0  # from a guest
    INBOUND = 1  # from the uplink

cpdef enum Verdict:
    VERDICT_FORWARD = 0  # translated; goes on the way it went
    VERDICT_HAIRPIN = 1  # translated; from a guest and back to a guest
    VERDICT_HELD = 2  # copied, and waits for the other fragments of its datagram
    VERDICT_FRAGMENTED = 3  # too big or just put together: it goes on in frames that the engine made of it
    DROP_BAD_HEADER = 16  # IP version, header size or a length that lies
    DROP_FIRST = 16
    DROP_BAD_IP_CHECKSUM = 17
    DROP_SOURCE_ROUTE = 18
    DROP_MARTIAN = 19  # an address that no packet of this direction may have
    DROP_BAD_L4 = 20  # an L4 header that does not fit, or a length in it that lies
    DROP_BAD_TCP_FLAGS = 21
    DROP_BAD_OFFLOAD = 22  # a virtio-net header that does not fit its frame
    DROP_UNKNOWN_PROTOCOL = 23
    DROP_TTL = 24
    DROP_TOO_BIG = 25
    DROP_NO_MAPPING = 26  # from outside, for an external port that nobody has
    DROP_FILTERED = 27  # from an endpoint that the guest did not ask
    DROP_NO_FLOW = 28  # from a guest, in the middle of a TCP connection that is not known
    DROP_TCP_STATE = 29  # a segment that no state of its connection allows
    DROP_FLOWS_FULL = 30
    DROP_GUEST_FLOWS = 31
    DROP_GUEST_PORTS = 32
    DROP_GUESTS_FULL = 33
    DROP_PORTS_EXHAUSTED = 34
    DROP_BAD_ICMP = 35
    DROP_ICMP_NO_FLOW = 36  # an error that quotes a packet of no flow
    DROP_BAD_FRAGMENT = 37
    DROP_FRAGMENT_OVERLAP = 38
    DROP_FRAGMENTS_FULL = 39
    DROP_FRAGMENT_TIMEOUT = 40
    DROP_UNSOLICITED_SYN = 41
    DROP_MAPPINGS_FULL = 42
    DROP_FRAGMENT_DUPLICATE = 43
    DROP_GUEST_ADDRESSES = 44  # of a machine that uses too many at a time
    DROP_ISOLATED = 45  # from a guest for another, whom the configuration keeps apart
    VERDICTS = 46
