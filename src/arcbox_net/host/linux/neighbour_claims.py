"""The IPv6 addresses that the bridge's ruleset has written down for a guest: given back when the guest goes.

Without this its addresses would be nobody else's for as long as they are remembered (rules_neighbour.OWNED_FOR).
"""

from __future__ import annotations

from collections.abc import Iterator

from arcbox_net.host.linux import nfnetlink
from arcbox_net.host.linux.generation import TABLE_NAME
from arcbox_net.host.linux.netlink import attr_text, attrs, iter_attrs
from arcbox_net.host.linux.nfnetlink import NfnetlinkSocket
from arcbox_net.host.linux.rule_elements import element_changes
from arcbox_net.host.plan import table_name

_GETSETELEM = nfnetlink.SUBSYS_NFTABLES << 8 | 13
_LIST_SET, _LIST_ELEMENTS = 2, 3
_ELEMENT_KEY, _DATA_VALUE = 1, 1
_ADDRESS_BYTES, _MAC_BYTES = 16, 6


def release(network: str, mac: str) -> str:
    """The commands that forget every address of the guest with *mac*; '' when it has none. Raises OSError."""
    addresses = [address for address, owner in owners(network) if owner == mac]
    if not addresses:
        return ""
    # Those that have timed out since: what is not there can be added before it is deleted.
    elements = {"owners6": [f"{address} . {mac}" for address in addresses], "taken6": addresses}
    changes = [element_changes(verb, "bridge", network, elements) for verb in ("add", "delete")]
    # What lets a known speaker pass at once must not outlive it. The others are looked up once more.
    return "".join([*changes, f"flush set bridge {table_name(network)} speakers6\n"])


def owners(network: str) -> list[tuple[str, str]]:
    """Address (as nft has it in that set: a number) and MAC of every claim. Raises OSError."""
    body = attr_text(TABLE_NAME, table_name(network)) + attr_text(_LIST_SET, "owners6")
    with NfnetlinkSocket() as netlink:
        payloads = netlink.dump(_GETSETELEM, nfnetlink.NFPROTO_BRIDGE, body)
    found = []
    for payload in payloads:
        for key in _keys(payload):
            address, mac = key[:_ADDRESS_BYTES], key[_ADDRESS_BYTES : _ADDRESS_BYTES + _MAC_BYTES]
            if len(mac) == _MAC_BYTES:
                found.append((f"{int.from_bytes(address, 'big'):#x}", mac.hex(":")))
    return found


def _keys(payload: bytes) -> Iterator[bytes]:
    """The keys of the elements in one message (from the netfilter header on)."""
    elements = attrs(payload, 4).get(_LIST_ELEMENTS, b"")
    for _, element in iter_attrs(elements):
        key = attrs(element).get(_ELEMENT_KEY, b"")
        yield attrs(key).get(_DATA_VALUE, b"")
