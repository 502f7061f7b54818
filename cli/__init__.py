"""The command line: one module per command, see :mod:`gpuscan.cli.main`."""
