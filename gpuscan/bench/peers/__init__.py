"""Other ways to group READY pages by target, each written as its own users would write it.

None of them claims: they leave the records as they are, which is less work than ours.
A peer gives :class:`gpuscan.bench.peers.answer.Answer`, checked to be the one ours gives.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.bench.peers.answer import Answer, Question

PEERS: dict[str, tuple[str, str]] = {
    "numpy": ("numpy_sort", "NumpySort"),
    "polars": ("polars_lazy", "PolarsStreaming"),
    "polars-in-memory": ("polars_lazy", "PolarsInMemory"),
    "duckdb": ("duckdb_sql", "DuckdbSql"),
    "kernel-walk": ("kernel_walk", "KernelWalk"),
}
"""Name -> module here, and the class in it: ``Peer(question)``."""


class Peer:
    """One way to the answer.

    Attributes:
        n_pages: how many of the question's pages it works on, from the first on.
        about: how it does it, in a few words.
    """

    about = ""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.n_pages = question.n_pages

    def run(self) -> object:
        """Do it once: the part that is timed."""
        raise NotImplementedError

    def answer(self) -> Answer:
        """Do it once and return what came out in the common form."""
        raise NotImplementedError


def open_peer(name: str) -> Callable[[Question], Peer]:
    """Return what makes the peer called ``name``.

    Raises:
        InputError: there is no such peer, or its library is not installed.
    """
    if name not in PEERS:
        raise InputError(f"unknown peer {name!r}; choose from {', '.join(PEERS)}")
    module, cls = PEERS[name]
    try:
        found: Callable[[Question], Peer] = getattr(import_module(f"{__name__}.{module}"), cls)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the peer {name} needs {error.name}, which is not installed: "
            f"{install_command('bench', error.name or '')}, or leave it out of --peers"
        ) from error
    return found
