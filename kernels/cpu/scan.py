"""One scan from request to plan: pick the path, cut the range, claim, trim."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import RawPlan, ScanRequest
from gpuscan.kernels.cpu.arguments import Cuts, Segment, Store, cuts_of
from gpuscan.kernels.cpu.bitmaps import (
    count_blocks,
    count_blocks_of_all_nodes,
    count_candidates,
    sample_blocks,
)
from gpuscan.kernels.cpu.buffers import Buffers
from gpuscan.kernels.cpu.claims import pages_at_most
from gpuscan.kernels.cpu.release import undo
from gpuscan.kernels.cpu.scan_dense import scan_dense
from gpuscan.kernels.cpu.scan_indexed import scan_indexed
from gpuscan.kernels.cpu.scan_sparse import scan_sparse
from gpuscan.kernels.cpu.staged_plan import StagedPlan
from gpuscan.kernels.cpu.staging import EXAMINED_BYTES, EXAMINED_PAGES, N_STAGED, POSITION
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.records.formats import N_NODES_MAX, RecordFormat
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

PIECES_PER_THREAD = 8
"""Pieces of a range per thread, so that none waits long for the last one."""
PARALLEL_FROM_BLOCKS = 2048
"""Set blocks from which the indexed scan is worth a second thread (handing work over costs 30 us)."""
BLOCKS_PER_PIECE = 8192
"""Set blocks from which the indexed scan cuts its range finer: a call of a kernel costs 20 us."""
PARALLEL_FROM_PAGES = 1 << 20
"""Pages from which the dense scan is."""
GUESS_SHARE = 0.75
"""Share of the capacity up to which a sample of the candidates is trusted to fit; else they are counted."""
SAMPLED_BLOCKS = 128
"""Set blocks that a sample of the candidates looks at, a cache line each."""
FEW_BLOCKS = 0.03
"""Share of set blocks up to which the bits are followed however full the blocks are."""
_MADE_AT_ONCE = 2_048
"""Claims up to which a plan is filled by the call that makes the claims: two more calls to read 270 of them
took as long as half the scan."""
CROSSOVER_DENSITY = 0.012
"""Share of candidates from which all records are read. Measured with 2**28 pages on 2 cores, uniform, rfc:
on a Zen 4 EPYC the bits win by 40 % at 0.005, the paths are equal at 0.01, and the bits lose by 15 to 30 %
at 0.015 and 20 to 75 % up to 0.03; on a Zen 1 EPYC they win by 37 % at 0.01 and lose by 7 % at 0.03. From
0.1 on claims and grouping are nearly all there is and the paths are within 10 % of each other."""

ALL_NODES = np.ones(N_NODES_MAX, dtype=np.uint8)


@dataclass(slots=True)
class Piece:
    """A part of the range that one thread works on.

    Attributes:
        lo, hi: flat range inside one chunk.
        chunk: row of the quotas, where there is a budget.
        segments: claims, those of a segment before those of the next.
        position: first flat page not covered.
        n_claimed: claims staged.
    """

    lo: int
    hi: int
    chunk: int
    segments: list[Segment] = field(default_factory=list)
    position: int = 0
    n_claimed: int = 0


class Scan:
    """A scan under way. :meth:`run` is called once."""

    def __init__(
        self,
        store: Store,
        fmt: RecordFormat,
        n_targets: int,
        request: ScanRequest,
        workers: Workers,
        buffers: Buffers,
    ) -> None:
        self.store = store
        self.fmt = fmt
        self.bits = fmt.bits
        if request.hi - request.lo > pages_at_most(fmt.bits):
            request = replace(request, hi=request.lo + pages_at_most(fmt.bits))
        self.request = request
        self.workers = workers
        self.buffers = buffers
        self.n_targets = n_targets
        self.cuts: Cuts = cuts_of(request.cuts)
        self.node_mask = ALL_NODES if request.node_mask is None else request.node_mask
        self.n_superseded = 0
        self.pieces: list[Piece] = []
        self.is_guess = False
        self.has_large_segments = False
        self.n_sampled_candidates: float | None = None

    def _prepare(self) -> None:
        """Choose the path and cut the range."""
        request = self.request
        self.n_set_blocks, self.n_blocks = self._count_blocks()
        self.path, self.why = self._choose_path()
        self.inline = (
            self.n_blocks * BLOCK_PAGES < PARALLEL_FROM_PAGES
            if self.path == "dense"
            else self.n_set_blocks < PARALLEL_FROM_BLOCKS
        )
        self.pieces = self._pieces(request.lo, request.hi)
        if self._may_exceed_capacity():
            self.is_guess = (
                request.cuts is None and self._sampled_candidates() < GUESS_SHARE * request.capacity
            )
            if not self.is_guess:
                self.pieces = self._cut_to_capacity(self.pieces)
        n_expected: float = min(self.n_set_blocks * BLOCK_PAGES, request.capacity)
        if self.n_sampled_candidates is not None:
            n_expected = min(n_expected, self.n_sampled_candidates)
        self.has_large_segments = n_expected > 2 * self.buffers.segment_claims * len(self.pieces)

    def _count_blocks(self) -> tuple[int, int]:
        """Return the set blocks of the range on the nodes asked for, and all blocks."""
        lo, hi = self.request.lo, self.request.hi
        if self.request.node_mask is not None:
            n_set, n_blocks = count_blocks.for_bits(self.bits)(self.store, self.node_mask, lo, hi)
            return n_set, n_blocks
        if lo == hi:
            return 0, 0
        n_set = count_blocks_of_all_nodes.for_bits(self.bits)(self.store.block_bits, lo, hi)
        return n_set, (hi - lo) // BLOCK_PAGES

    def _choose_path(self) -> tuple[Literal["dense", "indexed"], str]:
        asked = self.request.path
        if asked != "auto":
            return asked, "as asked"
        if self.n_set_blocks <= FEW_BLOCKS * self.n_blocks:
            return "indexed", _few(self.n_set_blocks, self.n_blocks)
        density = self._sampled_candidates() / (self.n_blocks * BLOCK_PAGES)
        sampled = f"{density:.2%} of the pages are candidates, by a sample of {SAMPLED_BLOCKS} blocks"
        if density > CROSSOVER_DENSITY:
            return "dense", f"{sampled}; over {CROSSOVER_DENSITY:.1%} all records are read"
        return "indexed", f"{sampled}; up to {CROSSOVER_DENSITY:.1%} the bits are followed"

    def _sampled_candidates(self) -> float:
        """Return about how many ready bits there are; looks once."""
        if self.n_sampled_candidates is not None:
            return self.n_sampled_candidates
        every = max(1, self.n_set_blocks // SAMPLED_BLOCKS)
        n_candidates, n_sampled = sample_blocks.for_bits(self.bits)(
            self.store, self.node_mask, self.request.lo, self.request.hi, every
        )
        self.n_sampled_candidates = float(n_candidates * self.n_set_blocks / max(1, n_sampled))
        return self.n_sampled_candidates

    def _pieces(self, lo: int, hi: int) -> list[Piece]:
        """Cut the range at the chunk edges of the budget, else into sections as even as can be."""
        cuts = self.request.cuts
        if cuts is not None:
            edges = cuts.chunk_edges.tolist()
        else:
            first, last = lo // SECTION_PAGES, -(-hi // SECTION_PAGES)
            n_pieces = 1 if self.inline else self.workers.n_threads * PIECES_PER_THREAD
            if self.path == "indexed":
                n_pieces = min(n_pieces, -(-self.n_set_blocks // BLOCKS_PER_PIECE))
            n_pieces = max(1, min(n_pieces, last - first))
            edges = [(first + (last - first) * i // n_pieces) * SECTION_PAGES for i in range(n_pieces + 1)]
        pieces = []
        for chunk, (start, end) in enumerate(pairwise(edges)):
            if max(start, lo) < min(end, hi):
                pieces.append(Piece(max(start, lo), min(end, hi), chunk, position=max(start, lo)))
        return pieces

    def _cut_to_capacity(self, pieces: list[Piece]) -> list[Piece]:
        """Shorten the range so that its candidates fit the plan.

        Exact only at rest: what producers add afterwards is trimmed in :meth:`_trim`.
        """
        capacity = self.request.capacity
        n_candidates = [0] * len(pieces)

        def count(index: int) -> None:
            if sum(n_candidates) > capacity:  # of pieces before this one: they are begun in order
                n_candidates[index] = capacity + 1
                return
            n_counted, end = self._count_candidates(pieces[index], capacity)
            n_candidates[index] = n_counted if end == pieces[index].hi else capacity + 1

        self.workers.run(len(pieces), count, inline=self.inline)
        room = capacity
        for index, piece in enumerate(pieces):
            if n_candidates[index] > room:
                _, end = self._count_candidates(piece, room)
                if end < piece.hi:
                    return self._pieces(self.request.lo, end)
            room -= n_candidates[index]
        return pieces

    def _count_candidates(self, piece: Piece, at_most: int) -> tuple[int, int]:
        compiled = count_candidates.for_bits(self.bits)
        count, end = compiled(self.store, self.node_mask, piece.lo, piece.hi, at_most)
        return count, end

    def _may_exceed_capacity(self) -> bool:
        capacity, cuts = self.request.capacity, self.cuts
        if self.n_set_blocks * BLOCK_PAGES <= capacity:
            return False
        if len(cuts.cut_key) == 0 or bool((cuts.cut_key < 0).any()):
            return True
        return int(cuts.above_pages.sum() + cuts.tie_pages_from.sum() + cuts.tie_pages_below.sum()) > capacity

    def run(self) -> RawPlan:
        """Claim and return the plan.

        Raises:
            Whatever went wrong, after every claim was put back.
        """
        try:
            plan = self._scan_sparse()
            if plan is None:
                if not self.pieces:
                    self._prepare()
                self.workers.run(len(self.pieces), self._claim_piece, inline=self.inline)
                if self.is_guess and self._is_full():
                    self._claim_exactly()
                plan = self._plan(self._trim())
            return plan
        except BaseException:  # KeyboardInterrupt too: claims must not get lost
            self._undo_all()
            raise

    def _scan_sparse(self) -> RawPlan | None:
        """Do it all in one call if few blocks are set.

        Returns:
            None if they are more, or if a segment does not hold their claims: then ``pieces`` is
            what goes on.
        """
        request, buffers = self.request, self.buffers
        lo, hi, asked = request.lo, request.hi, request.path
        if (
            asked == "dense"
            or request.cuts is not None
            or request.capacity < buffers.segment_claims
            or lo == hi
        ):
            return None
        segment, scratch = buffers.segment(), buffers.scratch()
        piece = Piece(lo, hi, 0, [segment], lo)
        self.pieces = [piece]
        offsets = np.empty(self.n_targets + 2, dtype=np.int64)
        flats = np.empty(_MADE_AT_ONCE, dtype=np.int64)
        words = np.empty(_MADE_AT_ONCE, dtype=self.fmt.dtype)
        n_set, n_blocks = scan_sparse.for_bits(self.bits)(
            self.store,
            self.cuts,
            self.node_mask,
            request.node_mask is None,
            lo,
            hi,
            min(PARALLEL_FROM_BLOCKS - 1, request.capacity // BLOCK_PAGES),
            FEW_BLOCKS if asked == "auto" else 1.0,
            *scratch,
            offsets,
            flats,
            words,
            *segment,
        )
        buffers.give_scratch(scratch)
        piece.position, piece.n_claimed = int(segment.state[POSITION]), int(segment.state[N_STAGED])
        self.path, self.inline = "indexed", True
        self.why = "as asked" if asked == "indexed" else _few(n_set, n_blocks)
        if piece.position == hi and piece.n_claimed <= _MADE_AT_ONCE:
            return self._made(segment, offsets, flats, words)
        if piece.position == hi:
            return self._plan(hi)
        if piece.position == lo:
            self._give_segments()
            self.pieces = []
        return None

    def _claim_exactly(self) -> None:
        """Begin again where the sample misled: where claims stop at a full plan is a matter of timing."""
        self._undo_all()
        self._give_segments()
        self.pieces = self._cut_to_capacity(self._pieces(self.request.lo, self.request.hi))
        self.workers.run(len(self.pieces), self._claim_piece, inline=self.inline)

    def _give_segments(self) -> None:
        for piece in self.pieces:
            while piece.segments:  # never in both places: what another scan stages there is not to be undone
                self.buffers.give_segment(piece.segments.pop())

    def _claim_piece(self, index: int) -> None:
        piece = self.pieces[index]
        if index > 0 and self._is_full():
            return
        kernel = (scan_dense if self.path == "dense" else scan_indexed).for_bits(self.bits)
        scratch = self.buffers.scratch()
        while piece.position < piece.hi:
            segment = self.buffers.segment(large=self.has_large_segments)
            piece.segments.append(segment)
            kernel(
                self.store,
                self.cuts,
                self.node_mask,
                piece.chunk,
                self.request.lo,
                piece.position,
                piece.hi,
                *scratch,
                *segment,
            )
            piece.position = int(segment.state[POSITION])
            piece.n_claimed += int(segment.state[N_STAGED])
            if self._is_full():
                break
        self.buffers.give_scratch(scratch)

    def _is_full(self) -> bool:
        return sum(piece.n_claimed for piece in self.pieces) > self.request.capacity

    def _trim(self) -> int:
        """Put back what does not fit or lies behind a gap; return the cursor."""
        room = self.request.capacity
        for index, piece in enumerate(self.pieces):
            claimed = piece.n_claimed
            if claimed > room:
                piece.position = self._staged_flat(piece, room) // BLOCK_PAGES * BLOCK_PAGES
            room -= claimed
            if piece.position < piece.hi:
                for behind in self.pieces[index:]:
                    self._undo(behind, piece.position)
                return piece.position
        return self.pieces[-1].hi if self.pieces else self.request.lo

    def _undo(self, piece: Piece, from_flat: int) -> None:
        for segment in piece.segments:
            self.n_superseded += undo.for_bits(self.bits)(
                self.store, self.cuts, piece.chunk, self.request.lo, *segment, from_flat
            )

    def _undo_all(self) -> None:
        """Put every claim back, even if Ctrl-C is pressed meanwhile: what was put back is staged no more.

        Raises:
            KeyboardInterrupt: it was pressed; all is put back.
        """
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                for piece in self.pieces:
                    self._undo(piece, piece.lo)
                break
            except KeyboardInterrupt as pressed:
                interrupt = pressed
        if interrupt is not None:
            raise interrupt

    def _made(
        self,
        segment: Segment,
        offsets: NDArray[np.int64],
        flats: NDArray[np.int64],
        words: NDArray[Any],
    ) -> RawPlan:
        """Return the plan that a kernel has filled."""
        n_known, n_all = int(offsets[-2]), int(offsets[-1])
        return RawPlan(
            offsets=offsets[:-1],
            flat=flats[:n_known].copy(),  # a plan may be kept for long, and most are of a few pages
            words=words[:n_known].copy(),
            owns_arrays=True,
            cursor=self.request.hi,
            path=self.path,
            why=self.why,
            examined_pages=int(segment.state[EXAMINED_PAGES]),
            examined_bytes=int(segment.state[EXAMINED_BYTES]),
            n_unknown_target=n_all - n_known,
            on_recycle=self._give_segments,
        )

    def _plan(self, cursor: int) -> RawPlan:
        segments = [segment for piece in self.pieces for segment in piece.segments]
        staged = self._staged(segments)
        n_known, n_all = int(staged.offsets[-2]), int(staged.offsets[-1])
        # While all claims can be put back: whoever reads the plan must not find that there is no memory. What
        # nobody reads is not written, and takes none.
        flats, words = np.empty(n_known, dtype=np.int64), np.empty(n_known, dtype=self.fmt.dtype)

        def unpack(lo: int, hi: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
            if (lo, hi) == (0, n_known):
                return staged.unpack(lo, hi, flats, words, self.workers)
            parts = np.empty(hi - lo, dtype=np.int64), np.empty(hi - lo, dtype=words.dtype)
            return staged.unpack(lo, hi, *parts, self.workers)

        return RawPlan(
            offsets=staged.offsets[:-1],
            unpack=unpack,
            cursor=cursor,
            path=self.path,
            why=self.why,
            examined_pages=sum(int(segment.state[EXAMINED_PAGES]) for segment in segments),
            examined_bytes=sum(int(segment.state[EXAMINED_BYTES]) for segment in segments),
            n_unknown_target=n_all - n_known,
            n_superseded=self.n_superseded,
            on_recycle=self._give_segments,
        )

    def _staged(self, segments: list[Segment]) -> StagedPlan:
        return StagedPlan(segments, self.request.lo, self.fmt.dtype, self.n_targets + 1)

    def _staged_flat(self, piece: Piece, index: int) -> int:
        """Return the page of a claim of a piece, by their pages' order."""
        for segment in piece.segments:
            n_staged = int(segment.state[N_STAGED])
            if index < n_staged:
                flats, words = np.empty(n_staged, dtype=np.int64), np.empty(n_staged, dtype=self.fmt.dtype)
                self._staged([segment]).unpack(0, n_staged, flats, words, self.workers)
                return int(np.partition(flats, index)[index])
            index -= n_staged
        raise IndexError(f"piece [{piece.lo}, {piece.hi}) has no claim {index}")


def _few(n_set_blocks: int, n_blocks: int) -> str:
    return f"{n_set_blocks} of {n_blocks} blocks have candidates"
