"""What this back end offers: virtio-net's feature bits, and the protocol's own."""

from __future__ import annotations

from enum import IntFlag


class Feature(IntFlag):
    """Virtio 1.2, sections 5.1.3 and 6, and the bit that says that there are protocol features."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MTU = 1 << 3
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    MQ = 1 << 22
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32


class ProtocolFeature(IntFlag):
    """Extensions of vhost-user that this back end knows."""

    MQ = 1 << 0
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    INFLIGHT_SHMFD = 1 << 12
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16


FEATURES_OFFERED = sum(Feature)
PROTOCOL_FEATURES_OFFERED = sum(ProtocolFeature)
