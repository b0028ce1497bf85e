"""Packet sockets and their addresses. Declarations only."""


cdef extern from *:
    """
    #include <netpacket/packet.h>
    """
    struct sockaddr_ll:
        unsigned short sll_family
        unsigned short sll_protocol
        int sll_ifindex
