"""The bits kept per page, the flat index over all pages, and the kernel's page flags."""
