"""Where frames enter and leave: TAPs, interfaces, sockets of virtual machines, and their memory."""
