"""Where a command keeps its shards: processes of this machine, or a cluster that runs already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.shards.sharded_store import Sharding


@contextmanager
def open_shards(
    n_workers: int | None,
    address: str | None,
    directory: Path | None,
    output: Output,
    *,
    fallback: bool = False,
    insecure: bool = False,
) -> Iterator[Sharding | None]:
    """Yield how a run is divided, None where it is not; what was started has ended afterwards.

    Args:
        n_workers: processes to start on this machine; with an address, workers to wait for there, as many
            shards are made.
        address: of the scheduler of a cluster to join, or its scheduler file.
        directory: for checkpoints and logs; one that is removed afterwards by default, where
            everything is on this machine.
        output: for notes.
        fallback: whether shards go on on the CPU when their device fails.
        insecure: whether a cluster without TLS may be joined.

    Raises:
        InputError: contradictory options, Dask is not there, nobody answers, or not over TLS.
        RunFailedError: the workers did not come.
    """
    from gpuscan.base.errors import InputError

    if insecure and address is None:
        raise InputError("--insecure is for a cluster to join; give --cluster ADDRESS too, or leave it out")
    if n_workers is None and address is None:
        if directory is not None:
            raise InputError("--shard-dir is for shards; give --workers N or --cluster ADDRESS too")
        yield None
        return
    if fallback and address is not None and directory is None:
        raise InputError(
            "a shard whose device failed is made anew from what it keeps in --shard-dir; give one that every "
            "worker sees, or leave out --fallback"
        )
    if directory is not None and not directory.is_dir():
        raise InputError(f"the directory {directory} is not there; make it, or give another --shard-dir")
    from gpuscan.base.units import format_number
    from gpuscan.shards.dask_transport import joined_cluster, local_cluster
    from gpuscan.shards.sharded_store import Sharding

    if address is None:
        assert n_workers is not None
        starting = output.note_if_slow(f"starting {format_number(n_workers, 'worker')}")
        with ExitStack() as stack:
            with starting:
                cluster = stack.enter_context(local_cluster(n_workers))
            kept_in = cluster.scratch if directory is None else directory.absolute()
            n_threads = max(1, len(os.sched_getaffinity(0)) // n_workers)
            yield Sharding(cluster.transport, n_workers, kept_in, n_threads)
        return
    with joined_cluster(address, n_workers, insecure=insecure) as transport:
        if directory is None:
            output.note("without --shard-dir the loss of a worker ends the run")
        place = None if directory is None else directory.absolute()
        yield Sharding(transport, n_workers or transport.n_workers(), place, None)
