/* vmnet.framework's interface up to macOS 15, as documented, with the same names, types and values, and the release that
 * each is there since. vmnet.c is behind it, and has what came with macOS 26 too: that is looked up by name. */
#ifndef STANDIN_VMNET_H
#define STANDIN_VMNET_H

#include <dispatch/dispatch.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/uio.h>
#include <xpc/xpc.h>

#define SINCE(release) __attribute__((availability(macos, introduced = release)))

typedef enum : uint32_t {
    VMNET_SUCCESS = 1000,
    VMNET_FAILURE = 1001,
    VMNET_MEM_FAILURE = 1002,
    VMNET_INVALID_ARGUMENT = 1003,
    VMNET_SETUP_INCOMPLETE = 1004,
    VMNET_INVALID_ACCESS = 1005,
    VMNET_PACKET_TOO_BIG = 1006,
    VMNET_BUFFER_EXHAUSTED = 1007,
    VMNET_TOO_MANY_PACKETS = 1008,
    VMNET_SHARING_SERVICE_BUSY = 1009,
    VMNET_NOT_AUTHORIZED = 1010,
} vmnet_return_t;

typedef enum : uint32_t {
    VMNET_HOST_MODE = 1000,
    VMNET_SHARED_MODE = 1001,
    VMNET_BRIDGED_MODE = 1002,
} operating_modes_t;

typedef enum : uint32_t {
    VMNET_INTERFACE_PACKETS_AVAILABLE = 1 << 0,
} interface_event_t;

struct vmpktdesc {
    size_t vm_pkt_size;
    struct iovec *vm_pkt_iov;
    uint32_t vm_pkt_iovcnt;
    uint32_t vm_flags;
};

typedef struct vmnet_interface *interface_ref;
typedef void (^vmnet_start_interface_completion_handler_t)(vmnet_return_t status, xpc_object_t interface_param);
typedef void (^vmnet_interface_completion_handler_t)(vmnet_return_t status);
typedef void (^vmnet_interface_event_callback_t)(interface_event_t event_mask, xpc_object_t event);
typedef void (^vmnet_interface_get_ip_port_forwarding_rules_handler_t)(xpc_object_t rules);

extern const char *vmnet_operation_mode_key SINCE(10.10);
extern const char *vmnet_interface_id_key SINCE(10.10);
extern const char *vmnet_shared_interface_name_key SINCE(10.15);
extern const char *vmnet_mac_address_key SINCE(10.10);
extern const char *vmnet_mtu_key SINCE(10.10);
extern const char *vmnet_max_packet_size_key SINCE(10.10);
extern const char *vmnet_start_address_key SINCE(10.15);
extern const char *vmnet_end_address_key SINCE(10.15);
extern const char *vmnet_subnet_mask_key SINCE(10.15);
extern const char *vmnet_nat66_prefix_key SINCE(10.15);
extern const char *vmnet_enable_isolation_key SINCE(11.0);
extern const char *vmnet_enable_tso_key SINCE(11.0);
extern const char *vmnet_enable_checksum_offload_key SINCE(12.0);
extern const char *vmnet_network_identifier_key SINCE(11.0);
extern const char *vmnet_read_max_packets_key SINCE(15.0);
extern const char *vmnet_write_max_packets_key SINCE(15.0);
extern const char *vmnet_enable_virtio_header_key SINCE(15.4);
extern const char *vmnet_estimated_packets_available_key SINCE(10.10);

interface_ref vmnet_start_interface(
    xpc_object_t interface_desc, dispatch_queue_t queue, vmnet_start_interface_completion_handler_t handler) SINCE(10.10);
vmnet_return_t vmnet_interface_set_event_callback(
    interface_ref interface, interface_event_t event_mask, dispatch_queue_t queue,
    vmnet_interface_event_callback_t callback) SINCE(10.10);
vmnet_return_t vmnet_stop_interface(
    interface_ref interface, dispatch_queue_t queue, vmnet_interface_completion_handler_t handler) SINCE(10.10);
vmnet_return_t vmnet_read(interface_ref interface, struct vmpktdesc *packets, int *pktcnt) SINCE(10.10);
vmnet_return_t vmnet_write(interface_ref interface, struct vmpktdesc *packets, int *pktcnt) SINCE(10.10);
vmnet_return_t vmnet_interface_add_ip_port_forwarding_rule(
    interface_ref interface, uint8_t protocol, uint16_t external_port, uint8_t address_family,
    const void *internal_address, uint16_t internal_port, vmnet_interface_completion_handler_t handler) SINCE(11.0);
vmnet_return_t vmnet_interface_remove_ip_port_forwarding_rule(
    interface_ref interface, uint8_t protocol, uint16_t external_port, uint8_t address_family,
    vmnet_interface_completion_handler_t handler) SINCE(11.0);
vmnet_return_t vmnet_interface_get_ip_port_forwarding_rules(
    interface_ref interface, uint8_t address_family,
    vmnet_interface_get_ip_port_forwarding_rules_handler_t handler) SINCE(11.0);
vmnet_return_t vmnet_ip_port_forwarding_rule_get_details(
    xpc_object_t rule, uint8_t *protocol, uint16_t *external_port, uint8_t address_family, void *internal_address,
    uint16_t *internal_port) SINCE(11.0);
xpc_object_t vmnet_copy_shared_interface_list(void) SINCE(10.15);

#endif
