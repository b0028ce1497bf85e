"""The table of interned addresses for Python tests."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport (
    address_drop, address_find, address_hold, address_octets, address_sum_be, address_table,
    address_table_free, address_table_init, address_take,
)


cdef class Addresses:
    """A table of its own. Addresses are their 16 bytes, numbers are ints, None is none."""

    cdef address_table table

    def __cinit__(self, uint32_t addresses_max):
        cdef uint64_t seed[2]
        seed[0], seed[1] = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9
        if not address_table_init(&self.table, addresses_max, seed):
            raise MemoryError

    def __dealloc__(self):
        address_table_free(&self.table)

    def __len__(self):
        return self.table.count

    def find(self, const uint8_t[::1] octets):
        return address_find(&self.table, &octets[0]) or None

    def take(self, const uint8_t[::1] octets):
        return address_take(&self.table, &octets[0]) or None

    def hold(self, uint32_t number):
        address_hold(&self.table, number)

    def drop(self, uint32_t number):
        address_drop(&self.table, number)

    def octets(self, uint32_t number):
        return (<const char *>address_octets(&self.table, number))[:16]

    def sum(self, uint32_t number):
        """As the two bytes in memory."""
        return int(address_sum_be(&self.table, number)).to_bytes(2, "little")
