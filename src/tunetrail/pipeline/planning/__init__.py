"""Planning: what a training will take, before it is paid for."""
