"""The ring without acquire and release: on x86 it works all the same, and ThreadSanitizer must report it."""

from arcbox_net.abi.relaxed_order cimport ORDER_IS_BROKEN
from arcbox_net.memory._testing_loops cimport put_numbers, take_numbers


def produce(ring, count, burst=1, timeout_s=10.0):
    assert ORDER_IS_BROKEN
    return put_numbers(ring, count, burst, timeout_s)


def consume(ring, count, burst=1, timeout_s=10.0):
    return take_numbers(ring, count, burst, timeout_s)
