/* vmnet.framework without blocks and without XPC: plain C for abi/vmnet.pxd.
 *
 * Functions that the framework completes later wait for that, at most ABX_VMNET_WAIT_S, so they are for control and not
 * for the packet path. What they return is a vmnet_return_t, or ABX_VMNET_NO_ANSWER, or ABX_VMNET_TOO_OLD.
 * Everything that came after macOS 11 is looked up by name when it is needed: one build runs on all of them.
 */
#ifndef ABX_VMNET_SHIM_H
#define ABX_VMNET_SHIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef ABX_VMNET_WAIT_S
#define ABX_VMNET_WAIT_S 20 /* the first start of a boot also starts the sharing service */
#endif

enum {
    ABX_VMNET_REASON_S = 1,
    ABX_VMNET_NO_ANSWER = 1,   /* the completion handler was not called in time */
    ABX_VMNET_TOO_OLD = 2,     /* this macOS has no such function */
    ABX_VMNET_TEXT_BYTES = 64, /* of an address, a prefix or an identifier, with its end */
};

/* What one interface is to be. Empty texts and zeros are left to the system. */
struct abx_vmnet_wish {
    uint32_t mode; /* operating_modes_t */
    uint32_t mtu;
    bool isolated; /* from other interfaces of the same network */
    bool tso;
    bool checksums; /* not together with virtio_headers */
    bool virtio_headers;
    char start_address[ABX_VMNET_TEXT_BYTES]; /* the host's own; these three together or not at all */
    char end_address[ABX_VMNET_TEXT_BYTES];
    char subnet_mask[ABX_VMNET_TEXT_BYTES];
    char nat66_prefix[ABX_VMNET_TEXT_BYTES];
    char interface_id[ABX_VMNET_TEXT_BYTES];       /* a UUID: the same one gets the same MAC address */
    char network_identifier[ABX_VMNET_TEXT_BYTES]; /* a UUID: host mode's interfaces with the same one meet */
    char shared_interface[ABX_VMNET_TEXT_BYTES];   /* of the host, for bridged mode */
};

/* What it is. Zeros and empty texts: the system did not say. */
struct abx_vmnet_facts {
    uint64_t mtu;
    uint64_t max_packet_bytes;
    uint64_t read_max_packets;
    uint64_t write_max_packets;
    bool virtio_headers; /* every packet has 12 bytes in front of it */
    bool tso;
    bool checksums;
    char mac[ABX_VMNET_TEXT_BYTES];
    char start_address[ABX_VMNET_TEXT_BYTES];
    char end_address[ABX_VMNET_TEXT_BYTES];
    char subnet_mask[ABX_VMNET_TEXT_BYTES];
    char nat66_prefix[ABX_VMNET_TEXT_BYTES];
    char interface_id[ABX_VMNET_TEXT_BYTES];
};

struct abx_vmnet_forward {
    uint8_t protocol; /* IPPROTO_TCP or IPPROTO_UDP */
    uint8_t family;   /* AF_INET or AF_INET6 */
    uint16_t external_port;
    uint16_t internal_port;
    uint8_t internal_address[16]; /* the first 4 for AF_INET */
};

struct abx_vmnet_packet { /* struct vmpktdesc */
    size_t size;
    struct iovec *vectors;
    uint32_t vector_count;
    uint32_t flags;
};

struct abx_vmnet;         /* a started interface */
struct abx_vmnet_network; /* a network of macOS 26, which needs neither root nor an entitlement */

/* *signal_fd* gets a byte when packets have come, and must not block; it is the caller's. */
uint32_t abx_vmnet_start(
    const struct abx_vmnet_wish *wish, struct abx_vmnet_network *network, int signal_fd, struct abx_vmnet **started,
    struct abx_vmnet_facts *facts);
/* Whatever the result, *interface* is no more. Nothing is written to its signal_fd any more, unless the result is
 * ABX_VMNET_NO_ANSWER: then it is to be left open. */
uint32_t abx_vmnet_stop(struct abx_vmnet *interface);

/* *count* packets at most; in return how many there were. May be called by one thread at a time. */
uint32_t abx_vmnet_read(struct abx_vmnet *interface, struct abx_vmnet_packet *packets, int *count);
uint32_t abx_vmnet_write(struct abx_vmnet *interface, struct abx_vmnet_packet *packets, int *count);

uint32_t abx_vmnet_forward_add(struct abx_vmnet *interface, const struct abx_vmnet_forward *forward);
uint32_t abx_vmnet_forward_remove(struct abx_vmnet *interface, const struct abx_vmnet_forward *forward);
/* At most *count* of a family into *forwards*; in return how many there are. */
uint32_t abx_vmnet_forwards(
    struct abx_vmnet *interface, uint8_t family, struct abx_vmnet_forward *forwards, uint32_t *count);

/* The names of interfaces that can be bridged, *count* at most; in return how many there are. */
void abx_vmnet_bridgeable(char names[][ABX_VMNET_TEXT_BYTES], uint32_t *count);

/* A network of macOS 26: made, then its parts said, then sealed; after that it is as it is. */
uint32_t abx_vmnet_network_begin(uint32_t mode, struct abx_vmnet_network **network);
/* *first* is the host's own address. */
uint32_t abx_vmnet_network_subnet(struct abx_vmnet_network *network, const uint8_t first[4], const uint8_t mask[4]);
uint32_t abx_vmnet_network_prefix(struct abx_vmnet_network *network, const uint8_t prefix[16], uint8_t bits);
uint32_t abx_vmnet_network_mtu(struct abx_vmnet_network *network, uint32_t mtu);
uint32_t abx_vmnet_network_uplink(struct abx_vmnet_network *network, const char *ifname);
uint32_t abx_vmnet_network_without_dhcp(struct abx_vmnet_network *network);
uint32_t abx_vmnet_network_reserve(struct abx_vmnet_network *network, const uint8_t mac[6], const uint8_t address[4]);
uint32_t abx_vmnet_network_forward(struct abx_vmnet_network *network, const struct abx_vmnet_forward *forward);
uint32_t abx_vmnet_network_seal(struct abx_vmnet_network *network);
void abx_vmnet_network_free(struct abx_vmnet_network *network);

#endif
