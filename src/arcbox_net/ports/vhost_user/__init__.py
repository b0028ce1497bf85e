"""vhost-user: a guest's virtio-net rings are served in its own memory, and set up over a unix socket."""
