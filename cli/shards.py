"""Where a command keeps its shards: processes of this machine, or a cluster that runs already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.records.page_map import PageMap
    from gpuscan.run.request import RunRequest
    from gpuscan.shards.sharded_store import Sharding


def check_division(request: RunRequest, page_map: PageMap) -> None:
    """Refuse more shards than a machine can be cut into, before so many processes are started.

    Raises:
        InputError: they are.
    """
    if request.workers is not None:
        from gpuscan.shards.partition import Partition

        Partition.even(page_map, request.workers)


@contextmanager
def open_shards(request: RunRequest, output: Output) -> Iterator[Sharding | None]:
    """Yield how a run is divided, None where it is not; what was started has ended afterwards.

    Args:
        request: with as many workers as there are to be shards; with a cluster, as many are waited for
            there. Where everything is on this machine and no directory is given for checkpoints and logs,
            there is one that is removed afterwards.
        output: for notes.

    Raises:
        InputError: Dask or the directory is not there, nobody answers, or not over TLS.
        RunFailedError: the workers did not come.
    """
    from gpuscan.base.errors import InputError

    n_workers, address, directory = request.workers, request.cluster, request.shard_dir
    if n_workers is None and address is None:
        yield None
        return
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
    with joined_cluster(address, n_workers, without_tls=request.insecure) as transport:
        if directory is None:
            output.note("without --shard-dir the loss of a worker ends the run")
        place = None if directory is None else directory.absolute()
        yield Sharding(transport, n_workers or transport.n_workers(), place, None)
