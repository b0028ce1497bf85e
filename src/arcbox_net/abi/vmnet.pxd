"""vmnet.framework for Cython: vmnet_shim.h. Declarations only, and only on macOS."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.socket cimport iovec


cdef extern from "vmnet_shim.h" nogil:
    enum:
        ABX_VMNET_NO_ANSWER
        ABX_VMNET_TOO_OLD
        ABX_VMNET_TEXT_BYTES

    struct abx_vmnet_wish:
        uint32_t mode
        uint32_t mtu
        bint isolated
        bint tso
        bint checksums
        bint virtio_headers
        char *start_address
        char *end_address
        char *subnet_mask
        char *nat66_prefix
        char *interface_id
        char *network_identifier
        char *shared_interface

    struct abx_vmnet_facts:
        uint64_t mtu
        uint64_t max_packet_bytes
        uint64_t read_max_packets
        uint64_t write_max_packets
        bint virtio_headers
        bint tso
        bint checksums
        char *mac
        char *start_address
        char *end_address
        char *subnet_mask
        char *nat66_prefix
        char *interface_id

    struct abx_vmnet_forward:
        uint8_t protocol
        uint8_t family
        uint16_t external_port
        uint16_t internal_port
        uint8_t *internal_address

    struct abx_vmnet_packet:
        size_t size
        iovec *vectors
        uint32_t vector_count
        uint32_t flags

    struct abx_vmnet:
        pass

    struct abx_vmnet_network:
        pass

    uint32_t abx_vmnet_start(
        const abx_vmnet_wish *wish, abx_vmnet_network *network, int signal_fd, abx_vmnet **started,
        abx_vmnet_facts *facts,
    )
    uint32_t abx_vmnet_stop(abx_vmnet *interface)
    uint32_t abx_vmnet_read(abx_vmnet *interface, abx_vmnet_packet *packets, int *count)
    uint32_t abx_vmnet_write(abx_vmnet *interface, abx_vmnet_packet *packets, int *count)
    uint32_t abx_vmnet_forward_add(abx_vmnet *interface, const abx_vmnet_forward *forward)
    uint32_t abx_vmnet_forward_remove(abx_vmnet *interface, const abx_vmnet_forward *forward)
    uint32_t abx_vmnet_forwards(abx_vmnet *interface, uint8_t family, abx_vmnet_forward *forwards, uint32_t *count)
    void abx_vmnet_bridgeable(char (*names)[64], uint32_t *count)
    uint32_t abx_vmnet_network_begin(uint32_t mode, abx_vmnet_network **network)
    uint32_t abx_vmnet_network_subnet(abx_vmnet_network *network, const uint8_t *first, const uint8_t *mask)
    uint32_t abx_vmnet_network_prefix(abx_vmnet_network *network, const uint8_t *prefix, uint8_t bits)
    uint32_t abx_vmnet_network_mtu(abx_vmnet_network *network, uint32_t mtu)
    uint32_t abx_vmnet_network_uplink(abx_vmnet_network *network, const char *ifname)
    uint32_t abx_vmnet_network_without_dhcp(abx_vmnet_network *network)
    uint32_t abx_vmnet_network_reserve(abx_vmnet_network *network, const uint8_t *mac, const uint8_t *address)
    uint32_t abx_vmnet_network_forward(abx_vmnet_network *network, const abx_vmnet_forward *forward)
    uint32_t abx_vmnet_network_seal(abx_vmnet_network *network)
    void abx_vmnet_network_free(abx_vmnet_network *network)
