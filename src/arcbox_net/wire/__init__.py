"""Headers and checksums as they are on the wire: no I/O and no clock."""
