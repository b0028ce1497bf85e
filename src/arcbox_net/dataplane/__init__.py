"""The datapath's decisions: connection tracking and NAT on frames in memory. No I/O, no clock of its own."""
