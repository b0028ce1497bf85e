"""What Linux's datagram sockets offer beyond `socket`: segmentation, error queues, header fields. Declarations only."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.abi.socket cimport sockaddr


cdef extern from "netinet/udp.h" nogil:
    int UDP_SEGMENT, UDP_GRO


cdef extern from "netinet/in.h" nogil:
    int IPPROTO_ICMP, IPPROTO_ICMPV6
    int IP_TTL, IP_TOS, IP_RECVTTL, IP_RECVTOS, IP_RECVERR, IP_MTU_DISCOVER
    int IP_PMTUDISC_DO, IP_PMTUDISC_DONT
    int IP_MTU, IPV6_MTU
    int IPV6_HOPLIMIT, IPV6_TCLASS, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_RECVERR, IPV6_V6ONLY
    int IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_PMTUDISC_WANT


cdef extern from "sys/socket.h" nogil:
    int MSG_ERRQUEUE, SO_DOMAIN


cdef extern from *:
    """
    #include <time.h>
    #include <linux/errqueue.h>
    """
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info

    int SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
    sockaddr *SO_EE_OFFENDER(sock_extended_err *error) nogil
