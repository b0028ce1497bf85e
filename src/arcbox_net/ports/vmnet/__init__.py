"""vmnet.framework: an interface of macOS's own networks as a port.

`interface` starts and stops interfaces and has their forwarding rules, `port` moves their packets in a worker. The
framework speaks in blocks and XPC dictionaries, which vmnet_shim.c turns into plain C. Only built on macOS.
"""
