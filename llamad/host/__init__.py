"""The machine: systemd, the journal, the kernel, GPUs. Knows nothing of servers or of config files."""
