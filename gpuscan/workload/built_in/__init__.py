"""The built-in workloads, one TOML file each; see :mod:`gpuscan.workload.files`."""
