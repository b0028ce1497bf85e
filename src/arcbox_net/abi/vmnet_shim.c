/* See vmnet_shim.h. Handlers and callbacks run on a serial queue of the interface's own. A handler may still come after
 * its caller has given up: what it touches is counted by owner, the caller and the handler, and freed by the last. */
#include "vmnet_shim.h"

#include <CoreFoundation/CoreFoundation.h>
#include <arpa/inet.h>
#include <dispatch/dispatch.h>
#include <dlfcn.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vmnet/vmnet.h>
#include <xpc/xpc.h>

_Static_assert(sizeof(struct abx_vmnet_packet) == sizeof(struct vmpktdesc), "packets are passed as they are");

struct abx_vmnet {
    interface_ref interface;
    dispatch_queue_t queue;
    int signal_fd;
};

struct abx_vmnet_network { /* either of the two */
    void *configuration;
    void *network;
};

/* What one completion leaves for the one who waits for it. */
struct answer {
    atomic_int owners;
    atomic_bool settled; /* of a start: by the handler that came, or by the caller who gave up */
    dispatch_semaphore_t done;
    uint32_t status;
    struct abx_vmnet_facts facts;
    struct abx_vmnet_forward *forwards;
    uint32_t count, room;
};

static struct answer *answer_new(uint32_t room)
{
    struct answer *answer = calloc(1, sizeof(*answer));
    if (!answer)
        return NULL;
    answer->owners = 2;
    answer->status = ABX_VMNET_NO_ANSWER;
    answer->done = dispatch_semaphore_create(0);
    answer->room = room;
    answer->forwards = room ? calloc(room, sizeof(*answer->forwards)) : NULL;
    if (!answer->done || (room && !answer->forwards)) {
        if (answer->done)
            dispatch_release(answer->done);
        free(answer->forwards);
        free(answer);
        return NULL;
    }
    return answer;
}

static void answer_drop(struct answer *answer)
{
    if (atomic_fetch_sub(&answer->owners, 1) > 1)
        return;
    dispatch_release(answer->done);
    free(answer->forwards);
    free(answer);
}

static void answer_give(struct answer *answer, uint32_t status)
{
    answer->status = status;
    dispatch_semaphore_signal(answer->done);
    answer_drop(answer);
}

static bool answered_within(struct answer *answer, int64_t seconds)
{
    return dispatch_semaphore_wait(answer->done, dispatch_time(DISPATCH_TIME_NOW, seconds * (int64_t)NSEC_PER_SEC)) == 0;
}

/* The status of what was begun with *begun*. The answer stays the caller's to drop.
 *
 * Whether a handler comes for what was refused at once is not documented. Its share of the answer is left to it: a few
 * bytes that are lost are better than a handler that writes into memory of another's.
 */
static uint32_t answer_wait(struct answer *answer, uint32_t begun)
{
    if (begun != VMNET_SUCCESS)
        return begun;
    return answered_within(answer, ABX_VMNET_WAIT_S) ? answer->status : ABX_VMNET_NO_ANSWER;
}

/* A key that not every macOS has. */
static const char *key_named(const char *name)
{
    const char *const *key = dlsym(RTLD_DEFAULT, name);
    return key ? *key : NULL;
}

static void put_text(xpc_object_t into, const char *key, const char *text)
{
    if (text[0])
        xpc_dictionary_set_string(into, key, text);
}

static bool put_uuid(xpc_object_t into, const char *key, const char *text)
{
    uuid_t uuid;
    if (!text[0])
        return true;
    if (!key || uuid_parse(text, uuid) != 0)
        return false;
    xpc_dictionary_set_uuid(into, key, uuid);
    return true;
}

static void take_text(xpc_object_t from, const char *key, char text[ABX_VMNET_TEXT_BYTES])
{
    const char *found = key ? xpc_dictionary_get_string(from, key) : NULL;
    if (found)
        strncpy(text, found, ABX_VMNET_TEXT_BYTES - 1);
}

static void take_facts(xpc_object_t from, struct abx_vmnet_facts *facts)
{
    const char *read_max = key_named("vmnet_read_max_packets_key");
    const char *write_max = key_named("vmnet_write_max_packets_key");
    const uint8_t *uuid = xpc_dictionary_get_uuid(from, vmnet_interface_id_key);
    facts->mtu = xpc_dictionary_get_uint64(from, vmnet_mtu_key);
    facts->max_packet_bytes = xpc_dictionary_get_uint64(from, vmnet_max_packet_size_key);
    facts->read_max_packets = read_max ? xpc_dictionary_get_uint64(from, read_max) : 0;
    facts->write_max_packets = write_max ? xpc_dictionary_get_uint64(from, write_max) : 0;
    take_text(from, vmnet_mac_address_key, facts->mac);
    take_text(from, vmnet_start_address_key, facts->start_address);
    take_text(from, vmnet_end_address_key, facts->end_address);
    take_text(from, vmnet_subnet_mask_key, facts->subnet_mask);
    take_text(from, vmnet_nat66_prefix_key, facts->nat66_prefix);
    if (uuid)
        uuid_unparse_lower(uuid, facts->interface_id);
}

static void put_address(uint32_t address, char text[ABX_VMNET_TEXT_BYTES])
{
    struct in_addr found = {htonl(address)};
    inet_ntop(AF_INET, &found, text, ABX_VMNET_TEXT_BYTES);
}

/* What a network has itself, its interfaces need not say. The subnet's second address is the host's. */
static void take_network(const struct abx_vmnet_network *network, struct abx_vmnet_facts *facts)
{
    void (*get_subnet)(void *, struct in_addr *, struct in_addr *);
    void (*get_prefix)(void *, struct in6_addr *, uint8_t *);
    struct in_addr subnet = {0}, mask = {0};
    struct in6_addr prefix = {0};
    uint8_t bits = 0;
    *(void **)&get_subnet = dlsym(RTLD_DEFAULT, "vmnet_network_get_ipv4_subnet");
    *(void **)&get_prefix = dlsym(RTLD_DEFAULT, "vmnet_network_get_ipv6_prefix");
    if (get_subnet)
        get_subnet(network->network, &subnet, &mask);
    if (mask.s_addr) {
        put_address((ntohl(subnet.s_addr) & ntohl(mask.s_addr)) + 1, facts->start_address);
        put_address((ntohl(subnet.s_addr) | ~ntohl(mask.s_addr)) - 1, facts->end_address);
        put_address(ntohl(mask.s_addr), facts->subnet_mask);
    }
    if (get_prefix)
        get_prefix(network->network, &prefix, &bits);
    if (bits == 64 && !IN6_IS_ADDR_UNSPECIFIED(&prefix))
        inet_ntop(AF_INET6, &prefix, facts->nat66_prefix, ABX_VMNET_TEXT_BYTES);
}

/* NULL if a text of *wish* is not what it must be, or this macOS cannot do what it asks. */
static xpc_object_t describe(const struct abx_vmnet_wish *wish, bool in_network, struct abx_vmnet_facts *facts)
{
    const char *virtio = wish->virtio_headers ? key_named("vmnet_enable_virtio_header_key") : NULL;
    const char *checksums = wish->checksums && !virtio ? key_named("vmnet_enable_checksum_offload_key") : NULL;
    xpc_object_t into = xpc_dictionary_create(NULL, NULL, 0);
    if (!into)
        return NULL;
    if (!in_network) { /* a network has some of these itself, and takes no others */
        xpc_dictionary_set_uint64(into, vmnet_operation_mode_key, wish->mode);
        if (wish->mtu)
            xpc_dictionary_set_uint64(into, vmnet_mtu_key, wish->mtu);
        put_text(into, vmnet_start_address_key, wish->start_address);
        put_text(into, vmnet_end_address_key, wish->end_address);
        put_text(into, vmnet_subnet_mask_key, wish->subnet_mask);
        put_text(into, vmnet_nat66_prefix_key, wish->nat66_prefix);
        put_text(into, vmnet_shared_interface_name_key, wish->shared_interface);
        if (!put_uuid(into, vmnet_interface_id_key, wish->interface_id) ||
            !put_uuid(into, vmnet_network_identifier_key, wish->network_identifier)) {
            xpc_release(into);
            return NULL;
        }
    }
    xpc_dictionary_set_bool(into, vmnet_enable_isolation_key, wish->isolated);
    facts->tso = wish->tso && (virtio || !wish->virtio_headers);
    facts->virtio_headers = virtio != NULL;
    facts->checksums = checksums != NULL;
    xpc_dictionary_set_bool(into, vmnet_enable_tso_key, facts->tso);
    if (checksums) /* not even false is allowed beside the headers */
        xpc_dictionary_set_bool(into, checksums, true);
    if (virtio)
        xpc_dictionary_set_bool(into, virtio, true);
    return into;
}

/* Nobody has *interface* any more, whose start was completed too late. */
static void stop_late(struct abx_vmnet *interface)
{
    vmnet_stop_interface(interface->interface, interface->queue, ^(vmnet_return_t found) {
      (void)found;
      dispatch_release(interface->queue);
      free(interface);
    });
}

static uint32_t watch(struct abx_vmnet *interface)
{
    int fd = interface->signal_fd;
    return vmnet_interface_set_event_callback(
        interface->interface, VMNET_INTERFACE_PACKETS_AVAILABLE, interface->queue,
        ^(interface_event_t events, xpc_object_t event) {
          (void)events;
          (void)event;
          ssize_t ignored = write(fd, "", 1); /* a full pipe has said it already */
          (void)ignored;
        });
}

static interface_ref begin(
    xpc_object_t description, struct abx_vmnet_network *network, dispatch_queue_t queue,
    vmnet_start_interface_completion_handler_t handler)
{
    interface_ref (*start_in)(void *, xpc_object_t, dispatch_queue_t, vmnet_start_interface_completion_handler_t);
    if (!network)
        return vmnet_start_interface(description, queue, handler);
    *(void **)&start_in = dlsym(RTLD_DEFAULT, "vmnet_interface_start_with_network");
    return start_in ? start_in(network->network, description, queue, handler) : NULL;
}

/* As `answer_wait`, of a handler that has the interface to itself if it comes after that. */
static uint32_t start_wait(struct answer *answer)
{
    if (answered_within(answer, ABX_VMNET_WAIT_S))
        return answer->status;
    if (!atomic_exchange(&answer->settled, true))
        return ABX_VMNET_NO_ANSWER;
    while (!answered_within(answer, ABX_VMNET_REASON_S)) /* it is giving its answer now */
        continue;
    return answer->status;
}

uint32_t abx_vmnet_start(
    const struct abx_vmnet_wish *wish, struct abx_vmnet_network *network, int signal_fd, struct abx_vmnet **started,
    struct abx_vmnet_facts *facts)
{
    struct abx_vmnet *interface = calloc(1, sizeof(*interface));
    struct answer *answer = answer_new(0);
    xpc_object_t description = NULL;
    uint32_t status = VMNET_MEM_FAILURE;
    memset(facts, 0, sizeof(*facts));
    if (!interface || !answer || !(interface->queue = dispatch_queue_create("arcbox-net.vmnet", NULL)))
        goto failed;
    status = VMNET_INVALID_ARGUMENT;
    description = describe(wish, network != NULL, facts);
    if (!description)
        goto failed;
    answer->facts = *facts; /* what was asked for, to which the handler adds what it is told */
    interface->signal_fd = signal_fd;
    interface->interface = begin(description, network, interface->queue, ^(vmnet_return_t found, xpc_object_t said) {
      if (found == VMNET_SUCCESS && said)
          take_facts(said, &answer->facts);
      if (!atomic_exchange(&answer->settled, true)) {
          answer_give(answer, found);
          return;
      }
      if (found == VMNET_SUCCESS)
          stop_late(interface);
      answer_drop(answer);
    });
    xpc_release(description);
    if (interface->interface)
        status = start_wait(answer);
    else /* the handler may have the reason */
        status = answered_within(answer, ABX_VMNET_REASON_S) ? answer->status : VMNET_FAILURE;
    if (status == VMNET_SUCCESS && interface->interface) {
        *facts = answer->facts;
        if (network)
            take_network(network, facts);
        status = watch(interface);
        if (status == VMNET_SUCCESS) {
            answer_drop(answer);
            *started = interface;
            return status;
        }
        answer_drop(answer);
        return abx_vmnet_stop(interface) == ABX_VMNET_NO_ANSWER ? ABX_VMNET_NO_ANSWER : status;
    }
    answer_drop(answer);
    if (status == ABX_VMNET_NO_ANSWER)
        return status; /* if the interface comes yet, its handler stops it */
    if (status == VMNET_SUCCESS) /* and no interface */
        status = VMNET_FAILURE;
    dispatch_release(interface->queue);
    free(interface);
    return status;
failed:
    if (answer) {
        answer_drop(answer);
        answer_drop(answer);
    }
    if (interface && interface->queue)
        dispatch_release(interface->queue);
    free(interface);
    return status;
}

uint32_t abx_vmnet_stop(struct abx_vmnet *interface)
{
    struct answer *answer = answer_new(0);
    uint32_t status = VMNET_MEM_FAILURE;
    vmnet_interface_set_event_callback(interface->interface, VMNET_INTERFACE_PACKETS_AVAILABLE, NULL, NULL);
    if (answer) {
        status = answer_wait(
            answer, vmnet_stop_interface(interface->interface, interface->queue, ^(vmnet_return_t found) {
              answer_give(answer, found);
            }));
        answer_drop(answer);
    }
    if (status == ABX_VMNET_NO_ANSWER)
        return status; /* callbacks may come yet */
    /* The queue is serial: behind this, no callback is under way. */
    dispatch_sync(interface->queue, ^{
                  });
    dispatch_release(interface->queue);
    free(interface);
    return status;
}

uint32_t abx_vmnet_read(struct abx_vmnet *interface, struct abx_vmnet_packet *packets, int *count)
{
    return vmnet_read(interface->interface, (struct vmpktdesc *)packets, count);
}

uint32_t abx_vmnet_write(struct abx_vmnet *interface, struct abx_vmnet_packet *packets, int *count)
{
    return vmnet_write(interface->interface, (struct vmpktdesc *)packets, count);
}

uint32_t abx_vmnet_forward_add(struct abx_vmnet *interface, const struct abx_vmnet_forward *forward)
{
    struct answer *answer = answer_new(0);
    uint32_t status;
    if (!answer)
        return VMNET_MEM_FAILURE;
    status = answer_wait(
        answer, vmnet_interface_add_ip_port_forwarding_rule(
                    interface->interface, forward->protocol, forward->external_port, forward->family,
                    forward->internal_address, forward->internal_port, ^(vmnet_return_t found) {
                      answer_give(answer, found);
                    }));
    answer_drop(answer);
    return status;
}

uint32_t abx_vmnet_forward_remove(struct abx_vmnet *interface, const struct abx_vmnet_forward *forward)
{
    struct answer *answer = answer_new(0);
    uint32_t status;
    if (!answer)
        return VMNET_MEM_FAILURE;
    status = answer_wait(
        answer, vmnet_interface_remove_ip_port_forwarding_rule(
                    interface->interface, forward->protocol, forward->external_port, forward->family,
                    ^(vmnet_return_t found) {
                      answer_give(answer, found);
                    }));
    answer_drop(answer);
    return status;
}

uint32_t abx_vmnet_forwards(
    struct abx_vmnet *interface, uint8_t family, struct abx_vmnet_forward *forwards, uint32_t *count)
{
    struct answer *answer = answer_new(*count);
    uint32_t status;
    if (!answer)
        return VMNET_MEM_FAILURE;
    status = answer_wait(
        answer, vmnet_interface_get_ip_port_forwarding_rules(interface->interface, family, ^(xpc_object_t rules) {
          size_t i, found = rules ? xpc_array_get_count(rules) : 0;
          for (i = 0; i < found && answer->count < answer->room; i++) {
              struct abx_vmnet_forward *forward = &answer->forwards[answer->count];
              forward->family = family;
              if (vmnet_ip_port_forwarding_rule_get_details(
                      xpc_array_get_value(rules, i), &forward->protocol, &forward->external_port, family,
                      forward->internal_address, &forward->internal_port) == VMNET_SUCCESS)
                  answer->count++;
          }
          answer_give(answer, VMNET_SUCCESS);
        }));
    if (status == VMNET_SUCCESS) {
        memcpy(forwards, answer->forwards, answer->count * sizeof(*forwards));
        *count = answer->count;
    } else {
        *count = 0;
    }
    answer_drop(answer);
    return status;
}

void abx_vmnet_bridgeable(char names[][ABX_VMNET_TEXT_BYTES], uint32_t *count)
{
    xpc_object_t list = vmnet_copy_shared_interface_list();
    uint32_t i, room = *count;
    *count = 0;
    if (!list)
        return;
    for (i = 0; i < xpc_array_get_count(list) && *count < room; i++) {
        const char *name = xpc_array_get_string(list, i);
        if (!name)
            continue;
        memset(names[*count], 0, ABX_VMNET_TEXT_BYTES);
        strncpy(names[(*count)++], name, ABX_VMNET_TEXT_BYTES - 1);
    }
    xpc_release(list);
}

/* Look up NAME as a function pointer of its own type, or return that this macOS is too old. */
#define LOOK_UP(name, returns, ...)                         \
    returns (*name)(__VA_ARGS__);                           \
    *(void **)&name = dlsym(RTLD_DEFAULT, #name);           \
    if (!name)                                              \
    return ABX_VMNET_TOO_OLD

uint32_t abx_vmnet_network_begin(uint32_t mode, struct abx_vmnet_network **network)
{
    vmnet_return_t status = VMNET_FAILURE;
    LOOK_UP(vmnet_network_configuration_create, void *, uint32_t, vmnet_return_t *);
    *network = calloc(1, sizeof(**network));
    if (!*network)
        return VMNET_MEM_FAILURE;
    (*network)->configuration = vmnet_network_configuration_create(mode, &status);
    if ((*network)->configuration)
        return VMNET_SUCCESS;
    free(*network);
    *network = NULL;
    return status == VMNET_SUCCESS ? VMNET_FAILURE : status;
}

uint32_t abx_vmnet_network_subnet(struct abx_vmnet_network *network, const uint8_t first[4], const uint8_t mask[4])
{
    struct in_addr own, bits;
    LOOK_UP(
        vmnet_network_configuration_set_ipv4_subnet, vmnet_return_t, void *, const struct in_addr *,
        const struct in_addr *);
    memcpy(&own, first, sizeof(own));
    memcpy(&bits, mask, sizeof(bits));
    return vmnet_network_configuration_set_ipv4_subnet(network->configuration, &own, &bits);
}

uint32_t abx_vmnet_network_prefix(struct abx_vmnet_network *network, const uint8_t prefix[16], uint8_t bits)
{
    struct in6_addr address;
    LOOK_UP(vmnet_network_configuration_set_ipv6_prefix, vmnet_return_t, void *, const struct in6_addr *, uint8_t);
    memcpy(&address, prefix, sizeof(address));
    return vmnet_network_configuration_set_ipv6_prefix(network->configuration, &address, bits);
}

uint32_t abx_vmnet_network_mtu(struct abx_vmnet_network *network, uint32_t mtu)
{
    LOOK_UP(vmnet_network_configuration_set_mtu, vmnet_return_t, void *, uint32_t);
    return vmnet_network_configuration_set_mtu(network->configuration, mtu);
}

uint32_t abx_vmnet_network_uplink(struct abx_vmnet_network *network, const char *ifname)
{
    LOOK_UP(vmnet_network_configuration_set_external_interface, vmnet_return_t, void *, const char *);
    return vmnet_network_configuration_set_external_interface(network->configuration, ifname);
}

uint32_t abx_vmnet_network_without_dhcp(struct abx_vmnet_network *network)
{
    LOOK_UP(vmnet_network_configuration_disable_dhcp, void, void *);
    vmnet_network_configuration_disable_dhcp(network->configuration);
    return VMNET_SUCCESS;
}

uint32_t abx_vmnet_network_reserve(struct abx_vmnet_network *network, const uint8_t mac[6], const uint8_t address[4])
{
    struct ether_addr client;
    struct in_addr reserved;
    LOOK_UP(
        vmnet_network_configuration_add_dhcp_reservation, vmnet_return_t, void *, const struct ether_addr *,
        const struct in_addr *);
    memcpy(&client, mac, sizeof(client));
    memcpy(&reserved, address, sizeof(reserved));
    return vmnet_network_configuration_add_dhcp_reservation(network->configuration, &client, &reserved);
}

uint32_t abx_vmnet_network_forward(struct abx_vmnet_network *network, const struct abx_vmnet_forward *forward)
{
    LOOK_UP(
        vmnet_network_configuration_add_port_forwarding_rule, vmnet_return_t, void *, uint8_t, sa_family_t, uint16_t,
        uint16_t, const void *);
    return vmnet_network_configuration_add_port_forwarding_rule(
        network->configuration, forward->protocol, forward->family, forward->internal_port, forward->external_port,
        forward->internal_address);
}

uint32_t abx_vmnet_network_seal(struct abx_vmnet_network *network)
{
    vmnet_return_t status = VMNET_FAILURE;
    LOOK_UP(vmnet_network_create, void *, void *, vmnet_return_t *);
    network->network = vmnet_network_create(network->configuration, &status);
    if (!network->network)
        return status == VMNET_SUCCESS ? VMNET_FAILURE : status;
    CFRelease(network->configuration);
    network->configuration = NULL;
    return VMNET_SUCCESS;
}

void abx_vmnet_network_free(struct abx_vmnet_network *network)
{
    if (network->network)
        CFRelease(network->network);
    if (network->configuration)
        CFRelease(network->configuration);
    free(network);
}
