/* A stand-in for vmnet.framework: interfaces whose other end is a socket that a test has. STANDIN_MACOS says which
 * release it is like: keys and functions that came later are not there. */
#include <Block.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CoreFoundation/CoreFoundation.h>
#include <vmnet/vmnet.h>

#include "standin.h"

#define KEY(name) const char *vmnet_##name##_key = "vmnet_" #name
KEY(operation_mode);
KEY(interface_id);
KEY(shared_interface_name);
KEY(mac_address);
KEY(mtu);
KEY(max_packet_size);
KEY(start_address);
KEY(end_address);
KEY(subnet_mask);
KEY(nat66_prefix);
KEY(enable_isolation);
KEY(enable_tso);
KEY(enable_checksum_offload);
KEY(network_identifier);
KEY(estimated_packets_available);
#if STANDIN_MACOS >= 15
KEY(read_max_packets);
KEY(write_max_packets);
KEY(enable_virtio_header);
#endif

enum { FAULTS_MAX = 16, FORWARDS_MAX = 32, VIRTIO_BYTES = 12, PACKET_MAX = 65562, TEXT_MAX = 4096, HELD_MAX = 16 };
enum { CALL_BYTES_MAX = 256 * 1024 }; /* of one read or write */

struct fault {
    char function[64];
    uint32_t status;
    int times;
    bool held;
};

struct rule { /* as the framework's rules are, opaque */
    uint8_t protocol, family;
    uint16_t external_port, internal_port;
    uint8_t internal_address[16];
};

struct vmnet_interface {
    dispatch_queue_t callback_queue;
    vmnet_interface_event_callback_t callback;
    pthread_mutex_t lock;
    pthread_t watcher;
    int near, far, epoll, ending[2];
    bool virtio;
    CFTypeRef network; /* it is in, or NULL */
    uint64_t max_packet_bytes;
    struct rule rules[FORWARDS_MAX];
    size_t rule_count;
    xpc_object_t description;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault faults[FAULTS_MAX];
static dispatch_block_t held[HELD_MAX];
static int held_count, running, short_packets, started;
static uint64_t read_max, write_max, max_packet_bytes;
static struct vmnet_interface *last;
static char network_text[TEXT_MAX];

static struct fault *fault_of(const char *function)
{
    int i;
    for (i = 0; i < FAULTS_MAX; i++)
        if (strcmp(faults[i].function, function) == 0)
            return &faults[i];
    for (i = 0; i < FAULTS_MAX; i++)
        if (!faults[i].function[0]) {
            strncpy(faults[i].function, function, sizeof(faults[i].function) - 1);
            return &faults[i];
        }
    abort();
}

void standin_fail(const char *function, uint32_t status, int times)
{
    pthread_mutex_lock(&lock);
    fault_of(function)->status = status;
    fault_of(function)->times = times;
    pthread_mutex_unlock(&lock);
}

void standin_hold(const char *function)
{
    pthread_mutex_lock(&lock);
    fault_of(function)->held = true;
    pthread_mutex_unlock(&lock);
}

void standin_limits(uint64_t most_read, uint64_t most_written, uint64_t most_bytes)
{
    read_max = most_read;
    write_max = most_written;
    max_packet_bytes = most_bytes;
}

void standin_short(int packets)
{
    short_packets = packets;
}

void standin_reset(void)
{
    dispatch_block_t late[HELD_MAX];
    int i, count;
    pthread_mutex_lock(&lock);
    memset(faults, 0, sizeof(faults));
    count = held_count;
    memcpy(late, held, sizeof(late));
    held_count = 0;
    short_packets = 0;
    standin_limits(0, 0, 0);
    pthread_mutex_unlock(&lock);
    for (i = 0; i < count; i++) {
        late[i]();
        Block_release(late[i]);
    }
}

int standin_held(void)
{
    return held_count;
}

int standin_running(void)
{
    return running;
}

int standin_far_end(void)
{
    return last ? fcntl(last->far, F_DUPFD_CLOEXEC, 0) : -1;
}

void standin_asked(const char *key, char *text, int size)
{
    const char *string = xpc_dictionary_get_string(last->description, key);
    const uint8_t *uuid = xpc_dictionary_get_uuid(last->description, key);
    uint64_t number = xpc_dictionary_get_uint64(last->description, key);
    uuid_string_t unparsed;
    text[0] = 0;
    if (string)
        snprintf(text, (size_t)size, "%s", string);
    else if (uuid) {
        uuid_unparse_lower(uuid, unparsed);
        snprintf(text, (size_t)size, "%s", unparsed);
    } else if (number)
        snprintf(text, (size_t)size, "%llu", (unsigned long long)number);
    else if (xpc_dictionary_get_bool(last->description, key))
        snprintf(text, (size_t)size, "true");
}

void standin_network(char *text, int size)
{
    snprintf(text, (size_t)size, "%s", network_text);
}

static vmnet_return_t fails(const char *function)
{
    vmnet_return_t status = VMNET_SUCCESS;
    struct fault *fault;
    pthread_mutex_lock(&lock);
    fault = fault_of(function);
    if (fault->times) {
        status = fault->status;
        fault->times -= fault->times > 0;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

/* Have *block* called on *queue*, or kept if the completions of *function* are held. */
static void complete(const char *function, dispatch_queue_t queue, dispatch_block_t block)
{
    bool keep;
    pthread_mutex_lock(&lock);
    keep = fault_of(function)->held;
    if (keep && held_count < HELD_MAX)
        held[held_count++] = Block_copy(block);
    pthread_mutex_unlock(&lock);
    if (!keep)
        dispatch_async(queue, block);
}

static void *watch(void *argument)
{
    struct vmnet_interface *interface = argument;
    struct epoll_event event;
    for (;;) {
        if (epoll_wait(interface->epoll, &event, 1, -1) < 1)
            continue;
        if (event.data.fd == interface->ending[0])
            return NULL;
        pthread_mutex_lock(&interface->lock);
        if (interface->callback) {
            vmnet_interface_event_callback_t callback = Block_copy(interface->callback);
            dispatch_async(interface->callback_queue, ^{
              xpc_object_t said = xpc_dictionary_create(NULL, NULL, 0);
              xpc_dictionary_set_uint64(said, vmnet_estimated_packets_available_key, 1);
              callback(VMNET_INTERFACE_PACKETS_AVAILABLE, said);
              xpc_release(said);
            });
            Block_release(callback); /* the queue has its own */
        }
        pthread_mutex_unlock(&interface->lock);
    }
}

static void watch_fd(struct vmnet_interface *interface, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
    epoll_ctl(interface->epoll, EPOLL_CTL_ADD, fd, &event);
}

static bool is_well_described(xpc_object_t description)
{
    uint64_t mode = xpc_dictionary_get_uint64(description, vmnet_operation_mode_key);
    const char *first = xpc_dictionary_get_string(description, vmnet_start_address_key);
    const char *end = xpc_dictionary_get_string(description, vmnet_end_address_key);
    const char *mask = xpc_dictionary_get_string(description, vmnet_subnet_mask_key);
    if (mode < VMNET_HOST_MODE || mode > VMNET_BRIDGED_MODE)
        return false;
    if (mode == VMNET_BRIDGED_MODE && !xpc_dictionary_get_string(description, vmnet_shared_interface_name_key))
        return false;
#if STANDIN_MACOS >= 15
    if (xpc_dictionary_get_bool(description, vmnet_enable_virtio_header_key) &&
        xpc_dictionary_get_value(description, vmnet_enable_checksum_offload_key))
        return false;
#endif
    return (!first) == (!end) && (!first) == (!mask);
}

static void copy_text(xpc_object_t into, xpc_object_t from, const char *key, const char *otherwise)
{
    const char *text = xpc_dictionary_get_string(from, key);
    xpc_dictionary_set_string(into, key, text ? text : otherwise);
}

static xpc_object_t parameters(struct vmnet_interface *interface)
{
    xpc_object_t said = xpc_dictionary_create(NULL, NULL, 0), asked = interface->description;
    const uint8_t *uuid = xpc_dictionary_get_uuid(asked, vmnet_interface_id_key);
    static const uuid_t made = {0x5a, 0x11};
    uint64_t mtu = xpc_dictionary_get_uint64(asked, vmnet_mtu_key);
    char mac[18];
    snprintf(mac, sizeof(mac), "02:00:00:00:00:%02x", ++started & 0xff);
    xpc_dictionary_set_string(said, vmnet_mac_address_key, mac);
    xpc_dictionary_set_uint64(said, vmnet_mtu_key, mtu ? mtu : 1500);
    xpc_dictionary_set_uint64(said, vmnet_max_packet_size_key, interface->max_packet_bytes);
    xpc_dictionary_set_uuid(said, vmnet_interface_id_key, uuid ? uuid : made);
    if (!interface->network && xpc_dictionary_get_uint64(asked, vmnet_operation_mode_key) != VMNET_BRIDGED_MODE) {
        copy_text(said, asked, vmnet_start_address_key, "192.168.64.1");
        copy_text(said, asked, vmnet_end_address_key, "192.168.64.254");
        copy_text(said, asked, vmnet_subnet_mask_key, "255.255.255.0");
        copy_text(said, asked, vmnet_nat66_prefix_key, "fd9b:5a14:ba57:e3d3::");
    }
#if STANDIN_MACOS >= 15
    xpc_dictionary_set_uint64(said, vmnet_read_max_packets_key, read_max ? read_max : 256);
    xpc_dictionary_set_uint64(said, vmnet_write_max_packets_key, write_max ? write_max : 256);
#endif
    return said;
}

static interface_ref begin(
    xpc_object_t description, CFTypeRef network, dispatch_queue_t queue,
    vmnet_start_interface_completion_handler_t handler)
{
    vmnet_return_t status = fails("vmnet_start_interface");
    struct vmnet_interface *interface;
    int ends[2];
    if (!network && status == VMNET_SUCCESS && !is_well_described(description))
        status = VMNET_INVALID_ARGUMENT;
    if (status != VMNET_SUCCESS) {
        complete("vmnet_start_interface", queue, ^{
          handler(status, NULL);
        });
        return NULL;
    }
    interface = calloc(1, sizeof(*interface));
    pthread_mutex_init(&interface->lock, NULL);
    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int)); /* more than CALL_BYTES_MAX */
    interface->near = ends[0];
    interface->far = ends[1];
    interface->network = network;
    interface->description = xpc_retain(description);
#if STANDIN_MACOS >= 15
    interface->virtio = xpc_dictionary_get_bool(description, vmnet_enable_virtio_header_key);
#endif
    interface->max_packet_bytes = max_packet_bytes ? max_packet_bytes
        : xpc_dictionary_get_bool(description, vmnet_enable_tso_key) ? 65550 : 1514;
    interface->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (pipe2(interface->ending, O_CLOEXEC))
        abort();
    watch_fd(interface, interface->near);
    watch_fd(interface, interface->ending[0]);
    pthread_create(&interface->watcher, NULL, watch, interface);
    last = interface;
    running++;
    complete("vmnet_start_interface", queue, ^{
      xpc_object_t said = parameters(interface);
      handler(VMNET_SUCCESS, said);
      xpc_release(said);
    });
    return interface;
}

interface_ref vmnet_start_interface(
    xpc_object_t description, dispatch_queue_t queue, vmnet_start_interface_completion_handler_t handler)
{
    return begin(description, NULL, queue, handler);
}

vmnet_return_t vmnet_interface_set_event_callback(
    interface_ref interface, interface_event_t events, dispatch_queue_t queue,
    vmnet_interface_event_callback_t callback)
{
    vmnet_return_t status = fails("vmnet_interface_set_event_callback");
    if (status != VMNET_SUCCESS)
        return status;
    pthread_mutex_lock(&interface->lock);
    if (interface->callback)
        Block_release(interface->callback);
    interface->callback = callback && events ? Block_copy(callback) : NULL;
    interface->callback_queue = queue;
    pthread_mutex_unlock(&interface->lock);
    return VMNET_SUCCESS;
}

vmnet_return_t vmnet_stop_interface(
    interface_ref interface, dispatch_queue_t queue, vmnet_interface_completion_handler_t handler)
{
    vmnet_return_t status = fails("vmnet_stop_interface");
    if (status != VMNET_SUCCESS)
        return status;
    if (write(interface->ending[1], "", 1) < 0)
        abort();
    pthread_join(interface->watcher, NULL);
    if (last == interface)
        last = NULL;
    close(interface->near);
    close(interface->far);
    close(interface->epoll);
    close(interface->ending[0]);
    close(interface->ending[1]);
    if (interface->callback)
        Block_release(interface->callback);
    xpc_release(interface->description);
    if (interface->network)
        CFRelease(interface->network);
    free(interface);
    running--;
    complete("vmnet_stop_interface", queue, ^{
      handler(VMNET_SUCCESS);
    });
    return VMNET_SUCCESS;
}

static int within(int wanted)
{
    return short_packets && short_packets < wanted ? short_packets : wanted;
}

vmnet_return_t vmnet_read(interface_ref interface, struct vmpktdesc *packets, int *count)
{
    uint64_t limit = interface->max_packet_bytes + (interface->virtio ? VIRTIO_BYTES : 0);
    vmnet_return_t status = fails("vmnet_read");
    size_t total = 0;
    int i, wanted = *count;
    *count = 0;
    if (status != VMNET_SUCCESS)
        return status;
    if (wanted > (int)(read_max ? read_max : 256))
        return VMNET_TOO_MANY_PACKETS;
    for (i = 0; i < within(wanted) && total + limit <= CALL_BYTES_MAX; i++) {
        struct msghdr message = {.msg_iov = packets[i].vm_pkt_iov, .msg_iovlen = packets[i].vm_pkt_iovcnt};
        ssize_t size;
        if (packets[i].vm_pkt_size < limit)
            return VMNET_INVALID_ARGUMENT;
        size = recvmsg(interface->near, &message, MSG_DONTWAIT);
        if (size < 0)
            break;
        packets[i].vm_pkt_size = (size_t)size;
        total += (size_t)size;
        packets[i].vm_flags = 0;
        ++*count;
    }
    return VMNET_SUCCESS;
}

vmnet_return_t vmnet_write(interface_ref interface, struct vmpktdesc *packets, int *count)
{
    uint64_t limit = interface->max_packet_bytes + (interface->virtio ? VIRTIO_BYTES : 0);
    vmnet_return_t status = fails("vmnet_write");
    size_t total = 0;
    int i, wanted = *count;
    *count = 0;
    if (status != VMNET_SUCCESS)
        return status;
    if (wanted > (int)(write_max ? write_max : 256))
        return VMNET_TOO_MANY_PACKETS;
    for (i = 0; i < wanted; i++)
        total += packets[i].vm_pkt_size;
    if (total > CALL_BYTES_MAX)
        return VMNET_TOO_MANY_PACKETS;
    for (i = 0; i < within(wanted); i++) {
        struct msghdr message = {.msg_iov = packets[i].vm_pkt_iov, .msg_iovlen = packets[i].vm_pkt_iovcnt};
        if (packets[i].vm_pkt_iovcnt != 1) /* as QEMU's authors saw it */
            return VMNET_INVALID_ARGUMENT;
        if (packets[i].vm_pkt_size > limit)
            return VMNET_PACKET_TOO_BIG;
        if (sendmsg(interface->near, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return errno == EAGAIN ? VMNET_BUFFER_EXHAUSTED : VMNET_FAILURE;
        ++*count;
    }
    return VMNET_SUCCESS;
}

static struct rule *find(interface_ref interface, uint8_t protocol, uint16_t external_port, uint8_t family)
{
    size_t i;
    for (i = 0; i < interface->rule_count; i++) {
        struct rule *rule = &interface->rules[i];
        if (rule->protocol == protocol && rule->external_port == external_port && rule->family == family)
            return rule;
    }
    return NULL;
}

vmnet_return_t vmnet_interface_add_ip_port_forwarding_rule(
    interface_ref interface, uint8_t protocol, uint16_t external_port, uint8_t family, const void *internal_address,
    uint16_t internal_port, vmnet_interface_completion_handler_t handler)
{
    vmnet_return_t status = fails("vmnet_interface_add_ip_port_forwarding_rule");
    struct rule *rule;
    if (interface->network) /* these have the rules that their network was made with */
        return VMNET_FAILURE;
    if (status == VMNET_SUCCESS && find(interface, protocol, external_port, family))
        status = VMNET_INVALID_ARGUMENT;
    if (status == VMNET_SUCCESS && interface->rule_count == FORWARDS_MAX)
        status = VMNET_FAILURE;
    if (status == VMNET_SUCCESS) {
        rule = &interface->rules[interface->rule_count++];
        memset(rule, 0, sizeof(*rule));
        rule->protocol = protocol;
        rule->family = family;
        rule->external_port = external_port;
        rule->internal_port = internal_port;
        memcpy(rule->internal_address, internal_address, family == AF_INET ? 4 : 16);
    }
    complete("vmnet_interface_add_ip_port_forwarding_rule", interface->callback_queue, ^{
      handler(status);
    });
    return VMNET_SUCCESS;
}

vmnet_return_t vmnet_interface_remove_ip_port_forwarding_rule(
    interface_ref interface, uint8_t protocol, uint16_t external_port, uint8_t family,
    vmnet_interface_completion_handler_t handler)
{
    vmnet_return_t status = fails("vmnet_interface_remove_ip_port_forwarding_rule");
    struct rule *rule = find(interface, protocol, external_port, family);
    if (interface->network)
        return VMNET_FAILURE;
    if (status == VMNET_SUCCESS && !rule)
        status = VMNET_INVALID_ARGUMENT;
    if (status == VMNET_SUCCESS)
        *rule = interface->rules[--interface->rule_count];
    complete("vmnet_interface_remove_ip_port_forwarding_rule", interface->callback_queue, ^{
      handler(status);
    });
    return VMNET_SUCCESS;
}

vmnet_return_t vmnet_interface_get_ip_port_forwarding_rules(
    interface_ref interface, uint8_t family, vmnet_interface_get_ip_port_forwarding_rules_handler_t handler)
{
    vmnet_return_t status = fails("vmnet_interface_get_ip_port_forwarding_rules");
    xpc_object_t rules;
    size_t i;
    if (status != VMNET_SUCCESS)
        return status;
    rules = xpc_array_create(NULL, 0);
    for (i = 0; i < interface->rule_count; i++)
        if (interface->rules[i].family == family) {
            xpc_object_t rule = xpc_data_create(&interface->rules[i], sizeof(struct rule));
            xpc_array_append_value(rules, rule);
            xpc_release(rule);
        }
    complete("vmnet_interface_get_ip_port_forwarding_rules", interface->callback_queue, ^{
      handler(rules);
      xpc_release(rules);
    });
    return VMNET_SUCCESS;
}

vmnet_return_t vmnet_ip_port_forwarding_rule_get_details(
    xpc_object_t object, uint8_t *protocol, uint16_t *external_port, uint8_t family, void *internal_address,
    uint16_t *internal_port)
{
    const struct rule *rule = xpc_data_get_bytes_ptr(object);
    if (rule->family != family)
        return VMNET_INVALID_ARGUMENT;
    *protocol = rule->protocol;
    *external_port = rule->external_port;
    *internal_port = rule->internal_port;
    memcpy(internal_address, rule->internal_address, family == AF_INET ? 4 : 16);
    return VMNET_SUCCESS;
}

xpc_object_t vmnet_copy_shared_interface_list(void)
{
    static const char *const names[] = {"en0", "en1", "bridge0"};
    xpc_object_t list = xpc_array_create(NULL, 0);
    size_t i;
    if (fails("vmnet_copy_shared_interface_list") != VMNET_SUCCESS) {
        xpc_release(list);
        return NULL;
    }
    for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
        xpc_object_t name = xpc_string_create(names[i]);
        xpc_array_append_value(list, name);
        xpc_release(name);
    }
    return list;
}

#if STANDIN_MACOS >= 26
enum { NETWORKS_MAX = 8 };

struct shape { /* a configuration, and what it became */
    char text[TEXT_MAX];
    struct in_addr host, mask; /* 0: the system's choice */
    struct in6_addr prefix;
    int references;
    bool sealed;
};

static struct shape *networks[NETWORKS_MAX]; /* that somebody refers to */

static vmnet_return_t say(struct shape *shape, const char *function, const char *line)
{
    vmnet_return_t status = fails(function);
    size_t used = strlen(shape->text);
    if (status == VMNET_SUCCESS)
        snprintf(shape->text + used, sizeof(shape->text) - used, "%s\n", line);
    return status;
}

void CFRelease(CFTypeRef object)
{
    struct shape *shape = (struct shape *)object;
    int i;
    pthread_mutex_lock(&lock);
    if (--shape->references == 0) {
        for (i = 0; i < NETWORKS_MAX; i++)
            if (networks[i] == shape)
                networks[i] = NULL;
        free(shape);
    }
    pthread_mutex_unlock(&lock);
}

/* Under the lock. Two networks cannot have one subnet, and the second is told nothing more than that it failed. */
static bool join(struct shape *network)
{
    int i, place = -1;
    for (i = 0; i < NETWORKS_MAX; i++) {
        if (!networks[i])
            place = i;
        else if (network->host.s_addr && networks[i]->host.s_addr == network->host.s_addr)
            return false;
    }
    if (place >= 0)
        networks[place] = network;
    return place >= 0;
}

void *vmnet_network_configuration_create(uint32_t mode, vmnet_return_t *status)
{
    struct shape *shape;
    char line[64];
    *status = fails("vmnet_network_configuration_create");
    if (*status == VMNET_SUCCESS && mode == VMNET_BRIDGED_MODE)
        *status = VMNET_INVALID_ARGUMENT;
    if (*status != VMNET_SUCCESS)
        return NULL;
    shape = calloc(1, sizeof(*shape));
    shape->references = 1;
    snprintf(line, sizeof(line), "mode %u", mode);
    say(shape, "", line);
    return shape;
}

vmnet_return_t vmnet_network_configuration_set_ipv4_subnet(
    void *shape, const struct in_addr *first, const struct in_addr *mask)
{
    ((struct shape *)shape)->host = *first;
    ((struct shape *)shape)->mask = *mask;
    char line[96], one[INET_ADDRSTRLEN], other[INET_ADDRSTRLEN];
    snprintf(
        line, sizeof(line), "subnet %s %s", inet_ntop(AF_INET, first, one, sizeof(one)),
        inet_ntop(AF_INET, mask, other, sizeof(other)));
    return say(shape, "vmnet_network_configuration_set_ipv4_subnet", line);
}

vmnet_return_t vmnet_network_configuration_set_ipv6_prefix(void *shape, const struct in6_addr *prefix, uint8_t bits)
{
    ((struct shape *)shape)->prefix = *prefix;
    char line[96], text[INET6_ADDRSTRLEN];
    snprintf(line, sizeof(line), "prefix %s/%u", inet_ntop(AF_INET6, prefix, text, sizeof(text)), bits);
    return say(shape, "vmnet_network_configuration_set_ipv6_prefix", line);
}

vmnet_return_t vmnet_network_configuration_set_mtu(void *shape, uint32_t mtu)
{
    char line[64];
    snprintf(line, sizeof(line), "mtu %u", mtu);
    return say(shape, "vmnet_network_configuration_set_mtu", line);
}

vmnet_return_t vmnet_network_configuration_set_external_interface(void *shape, const char *ifname)
{
    char line[64];
    snprintf(line, sizeof(line), "uplink %s", ifname);
    return say(shape, "vmnet_network_configuration_set_external_interface", line);
}

void vmnet_network_configuration_disable_dhcp(void *shape)
{
    say(shape, "", "no dhcp");
}

vmnet_return_t vmnet_network_configuration_add_dhcp_reservation(
    void *shape, const struct ether_addr *mac, const struct in_addr *address)
{
    const uint8_t *m = (const uint8_t *)mac;
    char line[96], text[INET_ADDRSTRLEN];
    snprintf(
        line, sizeof(line), "reserve %02x:%02x:%02x:%02x:%02x:%02x %s", m[0], m[1], m[2], m[3], m[4], m[5],
        inet_ntop(AF_INET, address, text, sizeof(text)));
    return say(shape, "vmnet_network_configuration_add_dhcp_reservation", line);
}

vmnet_return_t vmnet_network_configuration_add_port_forwarding_rule(
    void *shape, uint8_t protocol, sa_family_t family, uint16_t internal_port, uint16_t external_port,
    const void *internal_address)
{
    char line[96], text[INET6_ADDRSTRLEN];
    snprintf(
        line, sizeof(line), "forward %u %u to %s port %u", protocol, external_port,
        inet_ntop(family, internal_address, text, sizeof(text)), internal_port);
    return say(shape, "vmnet_network_configuration_add_port_forwarding_rule", line);
}

void *vmnet_network_create(void *configuration, vmnet_return_t *status)
{
    struct shape *network;
    *status = fails("vmnet_network_create");
    if (*status != VMNET_SUCCESS)
        return NULL;
    network = calloc(1, sizeof(*network));
    memcpy(network, configuration, sizeof(*network));
    network->sealed = true;
    network->references = 1;
    pthread_mutex_lock(&lock);
    if (!join(network)) {
        free(network);
        network = NULL;
        *status = VMNET_FAILURE;
    }
    pthread_mutex_unlock(&lock);
    if (!network)
        return NULL;
    memcpy(network_text, network->text, sizeof(network_text));
    return network;
}

void vmnet_network_get_ipv4_subnet(void *network, struct in_addr *host, struct in_addr *mask)
{
    const struct shape *shape = network;
    *host = shape->host;
    *mask = shape->mask;
    if (!host->s_addr) {
        inet_pton(AF_INET, "192.168.64.1", host);
        inet_pton(AF_INET, "255.255.255.0", mask);
    }
}

void vmnet_network_get_ipv6_prefix(void *network, struct in6_addr *prefix, uint8_t *bits)
{
    *prefix = ((const struct shape *)network)->prefix;
    *bits = 64;
    if (IN6_IS_ADDR_UNSPECIFIED(prefix))
        inet_pton(AF_INET6, "fd9b:5a14:ba57:e3d3::", prefix);
}

interface_ref vmnet_interface_start_with_network(
    void *network, xpc_object_t description, dispatch_queue_t queue,
    vmnet_start_interface_completion_handler_t handler)
{
    struct shape *shape = network;
    interface_ref interface = shape->sealed ? begin(description, network, queue, handler) : NULL;
    pthread_mutex_lock(&lock);
    shape->references += interface != NULL;
    pthread_mutex_unlock(&lock);
    return interface;
}
#else
void CFRelease(CFTypeRef object)
{
    (void)object;
    abort();
}
#endif
