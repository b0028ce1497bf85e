"""The DNS forwarder: `DnsService` runs, `DnsSettings` says how, `LocalNames` are the network's own names."""

from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.service import DnsService
from arcbox_net.services.dns.settings import DnsSettings

__all__ = ["DnsService", "DnsSettings", "LocalNames"]
