"""What tests need of the emitter, of answers and of fragments, which have no Python face."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.emitter cimport emitter, emitter_free, emitter_init, emitter_reset
from arcbox_net.dataplane.fragment cimport fragment_emit, fragment_id_next, fragment_ids, fragment_ids_init
from arcbox_net.dataplane.fragment_store cimport (
    BLOCK_BYTES, BLOCKS_MAX, BLOCKS_OWNER, BLOCKS_SHARE, DATAGRAMS_MAX, DATAGRAMS_OWNER, DATAGRAMS_SHARE,
    PARTS_MAX, SHARES,
)
from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse, tcp_refuse
from arcbox_net.dataplane.reassembly cimport (
    reassembly, reassembly_expire, reassembly_free, reassembly_init, reassembly_take,
)
from arcbox_net.dataplane.verdict cimport VERDICT_FORWARD, Direction, Verdict
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame

from arcbox_net.dataplane.emitter cimport EMIT_BYTES_MAX as _EMIT_BYTES, EMIT_FRAMES_MAX as _EMIT_FRAMES

cdef enum:
    ROOM_BYTES = FRAME_VNET_BYTES + 70000

LIMITS = {
    "emit_frames": _EMIT_FRAMES,
    "emit_bytes": _EMIT_BYTES,
    "block_bytes": BLOCK_BYTES,
    "blocks_max": BLOCKS_MAX,
    "blocks_owner": BLOCKS_OWNER,
    "blocks_share": BLOCKS_SHARE,
    "datagrams_max": DATAGRAMS_MAX,
    "datagrams_owner": DATAGRAMS_OWNER,
    "datagrams_share": DATAGRAMS_SHARE,
    "parts_max": PARTS_MAX,
}


cdef class Stages:
    """An emitter, and what emits to it. Frames are bytes without a virtio-net header, or with one ahead."""

    cdef emitter *out
    cdef icmp_answers *answers
    cdef reassembly *fragments
    cdef fragment_ids ids
    cdef uint8_t *room
    cdef int l3

    def __cinit__(self, *, bytes gateway=bytes(4), int l3=0, tuple seed=(1, 2)):
        cdef uint64_t[2] words
        words[0], words[1] = seed
        self.out = <emitter *>calloc(1, sizeof(emitter))
        self.answers = <icmp_answers *>calloc(1, sizeof(icmp_answers))
        self.fragments = <reassembly *>calloc(1, sizeof(reassembly))
        self.room = <uint8_t *>calloc(1, ROOM_BYTES)
        if self.out == NULL or self.answers == NULL or self.fragments == NULL or self.room == NULL:
            raise MemoryError
        if not emitter_init(self.out) or not reassembly_init(self.fragments, words):
            raise MemoryError
        fragment_ids_init(&self.ids, words)
        self.answers.out = self.out
        self.answers.machines.by_link = True
        memset(self.answers.machines.mask6, 0xFF, sizeof(self.answers.machines.mask6))
        memcpy(&self.answers.gateway_be, <const uint8_t *>gateway, 4)
        self.l3 = l3

    def __dealloc__(self):
        if self.out != NULL:
            emitter_free(self.out)
        if self.fragments != NULL:
            reassembly_free(self.fragments)
        free(self.out)
        free(self.answers)
        free(self.fragments)
        free(self.room)

    cdef frame _frame(self, bytes data, bytes virtio) except *:
        cdef frame f
        if len(data) > ROOM_BYTES - FRAME_VNET_BYTES or len(virtio) not in (0, FRAME_VNET_BYTES):
            raise ValueError(f"{len(data)} bytes behind {len(virtio)}: a frame has no room for them")
        memset(&f, 0, sizeof(f))
        memcpy(self.room, <const uint8_t *>virtio, len(virtio))
        memcpy(self.room + FRAME_VNET_BYTES, <const uint8_t *>data, len(data))
        f.data = self.room + FRAME_VNET_BYTES
        f.size = <uint32_t>len(data)
        f.l3 = <uint8_t>self.l3
        f.flags = FRAME_VNET if virtio else 0
        return f

    def take(self, bytes data, int direction=0, uint64_t now_ns=0, bytes virtio=b""):
        """The verdict of a fragment, and the datagram when it is whole."""
        cdef frame f = self._frame(data, virtio)
        cdef frame whole
        cdef Verdict verdict = reassembly_take(
            self.fragments, self.answers, &f, <Direction>direction, now_ns, &whole
        )
        if verdict != VERDICT_FORWARD:
            return verdict, None
        return verdict, (<const char *>whole.data)[:whole.size]

    def expire(self, uint64_t now_ns, uint32_t budget=1 << 20):
        return reassembly_expire(self.fragments, self.answers, now_ns, budget)

    def cut(self, bytes data, uint32_t mtu, int towards=0, bytes virtio=b"", uint64_t sender=0):
        cdef frame f = self._frame(data, virtio)
        return fragment_emit(self.out, &self.ids, &f, sender, <Direction>towards, mtu)

    def id_next(self, uint32_t source_be, uint32_t destination_be, uint8_t protocol):
        return fragment_id_next(&self.ids, source_be, destination_be, protocol, 1)

    def refuse(self, bytes data, int towards, int icmp_type, int code, uint32_t rest=0, uint64_t now_ns=0):
        cdef frame f = self._frame(data, b"")
        icmp_refuse(
            self.answers, &f, <Direction>towards, <uint8_t>icmp_type, <uint8_t>code, rest, now_ns
        )

    def reset(self, bytes data, int towards=1):
        cdef frame f = self._frame(data, b"")
        tcp_refuse(self.answers, &f, <Direction>towards)

    def emitted(self):
        """The frames since the last call: where each goes, its virtio-net header, its bytes."""
        cdef uint32_t i
        cdef frame *f
        found = []
        for i in range(self.out.count):
            f = &self.out.frames[i]
            found.append((
                self.out.towards[i],
                (<const char *>f.data - FRAME_VNET_BYTES)[:FRAME_VNET_BYTES],
                (<const char *>f.data)[:f.size],
            ))
        emitter_reset(self.out)
        return found

    def counts(self):
        shares = [(self.fragments.store.shares[i].count, self.fragments.store.shares[i].blocks) for i in range(SHARES)]
        return {
            "overflows": self.out.overflows,
            "limited": self.answers.limited,
            "joined": self.fragments.joined,
            "largest": self.fragments.largest,
            "refused": self.fragments.refused,
            "timeouts": self.fragments.timeouts,
            "evicted": self.fragments.store.evicted,
            "datagrams": sum(count for count, _ in shares),
            "blocks": sum(blocks for _, blocks in shares),
        }
