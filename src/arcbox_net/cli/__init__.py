"""The command line: one verb a file, loaded when it is used. Everything goes through `arcbox_net.manager`."""
