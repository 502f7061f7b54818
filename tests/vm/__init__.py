"""A guest machine with several NUMA nodes, and a command run in it: ``python -m tests.vm COMMAND...``.

The kernel is Debian's, the machine is emulated by QEMU without KVM, the files are the host's, read-only over
9p: nothing is installed and no disk image is built. docs/guest.md says more.
"""
