"""128 claims staged at once, where the machine has AVX-512 with VBMI and targets are few, as an intrinsic.

Claim by claim, the place of a target is loaded, counted up and stored: a claim waits for the one before it of
the same target. Here the places of 64 claims are found in vector registers, whatever their targets:

- Each of 8 lanes has the targets of 8 neighbours, and 16 counters of 4 bits. Shifted by a target they are
  read and counted up: so a claim has its rank among those of its target in its lane.
- Sums over the lanes before it make that a rank among the 64.
- Behind what its target's strip holds, this is the place in that strip, or from 64 on in the next one.

Then each is one load and one store. Those of the first 64 are written between the steps for the second 64: a
core does not look far enough ahead to find both by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from gpuscan.kernels.cpu.atomics import has_features, intrinsic

FEW_TARGETS = 16
"""Counters of 4 bits in a lane: as many targets, unknown ones not counted, can be staged like this."""

_FEATURES = {"+avx512f", "+avx512bw", "+avx512dq", "+avx512vl", "+avx512vbmi"}

_BYTES, _INTS, _LONGS = (ir.VectorType(ir.IntType(bits), 512 // bits) for bits in (8, 32, 64))
_BIT, _I32, _I64 = (ir.IntType(bits) for bits in (1, 32, 64))
_N_LANES = 8


class _Vectors:
    """Builds steps on vectors of 512 bits."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.meanwhile: list[Callable[[], None]] = []
        """What else is to be built, a little of it between the steps."""

    def go_on(self, n_parts: int, vector: Any) -> Any:
        """Build some of what else is to be built, and return the vector, which is used after that."""
        if not self.meanwhile:
            return vector
        for _ in range(min(n_parts, len(self.meanwhile))):
            self.meanwhile.pop(0)()
        # No instruction, but LLVM does not know: else it would do one after the other.
        through = ir.FunctionType(vector.type, [vector.type])
        return self.builder.asm(through, "", "=v,0,~{memory}", [vector], side_effect=True)

    def finish(self) -> None:
        """Build the rest of it."""
        while self.meanwhile:
            self.meanwhile.pop(0)()

    def every(self, vector_type: Any, word: Any) -> Any:
        """Return a vector with a word, an LLVM value, in each lane."""
        nothing = ir.Constant(vector_type, ir.Undefined)
        first = self.builder.insert_element(nothing, word, _I32(0))
        return self.builder.shuffle_vector(first, nothing, _constants(_I32, [0] * vector_type.count))

    def number(self, vector_type: Any, number: int) -> Any:
        """Return a constant in each lane."""
        return _constants(vector_type.element, [number] * vector_type.count)

    def as_(self, vector_type: Any, vector: Any) -> Any:
        """Return the same bits as other elements."""
        return self.builder.bitcast(vector, vector_type)

    def call(self, name: str, *vectors: Any, result: Any = None) -> Any:
        """Call an LLVM intrinsic."""
        result = vectors[0].type if result is None else result
        function_type = ir.FunctionType(result, [vector.type for vector in vectors])
        declared = cgutils.get_or_insert_function(self.builder.module, function_type, f"llvm.{name}")
        return self.builder.call(declared, vectors)

    def moved(self, longs: Any, n_lanes: int) -> Any:
        """Return lanes that moved up, with zeros below."""
        zeros = self.number(_LONGS, 0)
        picked = [_N_LANES - n_lanes + lane for lane in range(_N_LANES)]
        return self.builder.shuffle_vector(zeros, longs, _constants(_I32, picked))

    def loaded(self, vector_type: Any, pointer: Any, index: int) -> Any:
        """Return the ``index``-th vector from a pointer on."""
        there = self.builder.gep(
            self.builder.bitcast(pointer, vector_type.as_pointer()), [_I32(index)], inbounds=True
        )
        loaded = self.builder.load(there)
        loaded.align = 8
        return loaded


def _constants(element: Any, values: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


def _lookup(vectors: _Vectors, table: Sequence[int], indexes: Any) -> Any:
    """Return the bytes of a table of 16 at indexes below 16."""
    return vectors.call("x86.avx512.pshuf.b.512", _constants(ir.IntType(8), list(table) * 4), indexes)


def _targets(vectors: _Vectors, word: Any, shift: Any, mask: Any, n_targets: Any) -> tuple[Any, Any]:
    """Return the target of each of 64 claims, in bytes, and a word that is not 0 if one is unknown."""
    builder = vectors.builder
    byte = ir.IntType(8)
    shifts = vectors.every(_BYTES, builder.trunc(shift, byte))
    targets, joined = vectors.number(_BYTES, 0), vectors.number(_LONGS, 0)
    for step in range(8):
        claims = vectors.loaded(_LONGS, word, step)
        joined = builder.or_(joined, claims)
        shifted = vectors.call("x86.avx512.pmultishift.qb.512", shifts, vectors.as_(_BYTES, claims))
        targets = builder.select(_one_of_8(step), shifted, targets)
    in_order = [(index % 8) * 8 + index // 8 for index in range(64)]
    targets = builder.shuffle_vector(targets, targets, _constants(_I32, in_order))
    # A byte has more than the target, or less of it.
    low_mask = builder.trunc(builder.and_(mask, _I64(FEW_TARGETS - 1)), byte)
    targets = builder.and_(targets, vectors.every(_BYTES, low_mask))
    above = builder.shl(builder.and_(mask, _I64(~(FEW_TARGETS - 1))), shift)
    are_above = builder.and_(joined, vectors.every(_LONGS, above))
    are_above = builder.icmp_unsigned("!=", are_above, vectors.number(_LONGS, 0))
    known = vectors.every(_BYTES, builder.trunc(n_targets, byte))
    are_unknown = builder.bitcast(builder.icmp_unsigned(">=", targets, known), _I64)
    return targets, builder.or_(builder.zext(builder.bitcast(are_above, byte), _I64), are_unknown)


def _one_of_8(step: int) -> Any:
    """Return a mask of bytes: one of each lane."""
    return _constants(_BIT, [index % 8 == step for index in range(64)])


def _ranks(vectors: _Vectors, targets: Any) -> tuple[Any, Any, Any]:
    """Count targets in each lane.

    Returns:
        The rank of each claim among those of its target in its lane, in bytes; how many of targets 0, 2, ..
        14 each lane has, in bytes, and how many of 1, 3, .. 15.
    """
    builder = vectors.builder
    nibbles = builder.shl(vectors.as_(_LONGS, targets), vectors.number(_LONGS, 2))
    counters, ranks = vectors.number(_LONGS, 0), vectors.number(_BYTES, 0)
    ones, zeros = vectors.number(_LONGS, 1), vectors.number(_BYTES, 0)
    for step in range(8):
        picked = [byte + step if byte % 8 == 0 else 64 for byte in range(64)]
        shifts = builder.shuffle_vector(vectors.as_(_BYTES, nibbles), zeros, _constants(_I32, picked))
        shifts = vectors.as_(_LONGS, shifts)
        read = vectors.as_(_BYTES, builder.lshr(counters, shifts))
        lowest = builder.shuffle_vector(read, read, _constants(_I32, [byte & ~7 for byte in range(64)]))
        ranks = builder.select(_one_of_8(step), lowest, ranks)
        counters = builder.add(counters, builder.shl(ones, shifts))
        counters = vectors.go_on(4, counters)
    low = vectors.number(_BYTES, 15)
    odd = vectors.as_(_BYTES, builder.lshr(counters, vectors.number(_LONGS, 4)))
    even = vectors.as_(_BYTES, counters)
    return builder.and_(ranks, low), builder.and_(even, low), builder.and_(odd, low)


def _sums(vectors: _Vectors, counts: Any) -> Any:
    """Return the sums of counts in bytes over a lane and those before it."""
    for n_lanes in (1, 2, 4):
        moved = vectors.as_(_BYTES, vectors.moved(vectors.as_(_LONGS, counts), n_lanes))
        counts = vectors.builder.add(counts, moved)
        counts = vectors.go_on(2, counts)
    return counts


@intrinsic
def stage_128(
    _context: Any,
    waiting: Any,
    _begin: Any,
    _shift: Any,
    _mask: Any,
    _n_targets: Any,
    _n_strips: Any,
    claims: Any,
    owners: Any,
    places: Any,
) -> tuple[Any, Any]:
    """``stage_128(waiting, begin, shift, mask, n_targets, n_strips, claims, owners, places)``.

    Stages 128 claims of ``waiting``, int64, from ``begin`` on, as :func:`gpuscan.kernels.cpu.staging.stage`
    does one by one, but that of the strips that 64 of them need those of lower targets are handed out first.

    ``shift`` and ``mask`` find the target in a claim, of which ``n_targets`` are known. ``n_strips`` were
    handed out, and there is room for what is needed. ``claims``, ``owners`` and ``places``, of at least 16,
    are the segment's.

    Returns how many strips are handed out then, or -1, and nothing was done: there are more than 16 targets,
    one of the claims has an unknown one, or the machine has no such instructions.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not has_features(context, _FEATURES):
            return _I64(-1)
        vectors = _Vectors(builder)
        begin, shift, mask, n_targets, n_strips = args[1:6]

        def data(argument: int) -> Any:
            return context.make_array(signature.args[argument])(context, builder, args[argument]).data

        claims_at, owners_at, places_at = data(6), data(7), data(8)
        words = [
            builder.gep(data(0), [builder.add(begin, _I64(64 * word))], inbounds=True) for word in range(2)
        ]
        found = [_targets(vectors, word, shift, mask, n_targets) for word in words]
        unknown = builder.or_(found[0][1], found[1][1])
        are_few = builder.icmp_signed("<=", n_targets, _I64(FEW_TARGETS))
        can = builder.and_(are_few, builder.icmp_unsigned("==", unknown, _I64(0)))
        result = cgutils.alloca_once_value(builder, _I64(-1))
        with builder.if_then(can, likely=True):
            for word, (targets, _) in zip(words, found, strict=True):
                places_found, n_strips = _places(vectors, owners_at, places_at, targets, n_strips)
                vectors.finish()
                vectors.meanwhile = _stores(builder, word, claims_at, places_found)
            vectors.finish()
            builder.store(n_strips, result)
        return builder.load(result)

    return types.int64(waiting, *[types.int64] * 5, claims, owners, places), codegen


def _places(
    vectors: _Vectors, owners_at: Any, places_at: Any, targets: Any, n_strips: Any
) -> tuple[Any, Any]:
    """Find where 64 claims go, and count them in.

    Returns:
        Their places, 64 integers on the stack, and how many strips are handed out then.
    """
    builder = vectors.builder
    ranks, even, odd = _ranks(vectors, targets)
    even_sums, odd_sums = _sums(vectors, even), _sums(vectors, odd)
    # Both are one table of 128 bytes: that of a target is one of 8 in a lane, of odd ones 64 behind.
    in_table = [(target & 1) << 6 | target >> 1 for target in range(16)]
    last_lane = [in_table[byte // 4] + 56 for byte in range(64)]
    totals = builder.shuffle_vector(even_sums, odd_sums, _constants(_I32, last_lane))
    totals = builder.and_(vectors.as_(_INTS, totals), vectors.number(_INTS, 255))
    # 1 to 64 claims are in the strip of a target, 64 also where it has none.
    half = ir.VectorType(_I32, 8)
    halves = [builder.trunc(vectors.loaded(_LONGS, places_at, step), half) for step in range(2)]
    places = builder.shuffle_vector(*halves, _constants(_I32, list(range(16))))
    one, full = vectors.number(_INTS, 1), vectors.number(_INTS, 64)
    held = builder.add(builder.and_(builder.sub(places, one), vectors.number(_INTS, 63)), one)
    strips = builder.sub(places, held)
    ends = builder.add(held, totals)
    needs_strip = builder.icmp_unsigned(">", ends, full)
    n_new = builder.zext(builder.ctpop(builder.bitcast(needs_strip, ir.IntType(16))), _I64)
    # A place in the next strip counts from the one before it, which was full with 64.
    before_first = builder.trunc(builder.sub(builder.shl(n_strips, _I64(6)), _I64(64)), _I32)
    news = builder.add(
        vectors.every(_INTS, before_first), _constants(_I32, [64 * strip for strip in range(16)])
    )
    nothing = vectors.number(_INTS, 0)
    next_strips = vectors.call("x86.avx512.mask.expand.v16i32", news, nothing, needs_strip)
    next_strips = vectors.go_on(4, next_strips)
    numbers = _constants(_I32, list(range(16)))
    new_owners = vectors.call("x86.avx512.mask.compress.v16i32", numbers, nothing, needs_strip)
    _store_first(vectors, new_owners, builder.gep(owners_at, [n_strips], inbounds=True), n_new)
    after = builder.add(builder.select(needs_strip, next_strips, strips), ends)
    for step in range(2):
        part = builder.shuffle_vector(after, after, _constants(_I32, list(range(8 * step, 8 * step + 8))))
        there = builder.gep(builder.bitcast(places_at, _LONGS.as_pointer()), [_I32(step)], inbounds=True)
        builder.store(builder.sext(part, _LONGS), there).align = 8
    held = vectors.go_on(4, held)
    # The place of a claim: its rank, behind those of lanes before, behind what the strip holds.
    lanes = _constants(ir.IntType(8), [byte & ~7 for byte in range(64)])
    table_at = builder.or_(_lookup(vectors, in_table, targets), lanes)
    before = vectors.call(
        "x86.avx512.vpermi2var.qi.512", builder.sub(even_sums, even), table_at, builder.sub(odd_sums, odd)
    )
    held_bytes = builder.trunc(held, ir.VectorType(ir.IntType(8), 16))
    every_16 = _constants(_I32, [byte % 16 for byte in range(64)])
    held_table = builder.shuffle_vector(held_bytes, held_bytes, every_16)
    held_of = vectors.call("x86.avx512.pshuf.b.512", held_table, targets)
    positions = builder.add(builder.add(before, ranks), held_of)
    is_next = builder.icmp_unsigned(">=", positions, vectors.number(_BYTES, 64))
    next_at = builder.select(is_next, vectors.number(_BYTES, 16), vectors.number(_BYTES, 0))
    strip_at = builder.or_(targets, next_at)
    strip_at = vectors.go_on(4, strip_at)
    found = cgutils.alloca_once(builder, ir.ArrayType(_INTS, 4))
    for quarter in range(4):
        here = _constants(_I32, list(range(16 * quarter, 16 * quarter + 16)))
        at = builder.zext(builder.shuffle_vector(strip_at, strip_at, here), _INTS)
        behind = builder.zext(builder.shuffle_vector(positions, positions, here), _INTS)
        strip = vectors.call("x86.avx512.vpermi2var.d.512", strips, at, next_strips)
        builder.store(builder.add(strip, behind), builder.gep(found, [_I32(0), _I32(quarter)], inbounds=True))
        strip_at = vectors.go_on(2, strip_at)
    return builder.bitcast(found, _I32.as_pointer()), builder.add(n_strips, n_new)


def _stores(builder: Any, from_: Any, to: Any, places: Any) -> list[Callable[[], None]]:
    """Return what builds the store of each of 64 claims in its place."""
    # Instructions unknown to LLVM, none: else it takes each place out of its vector, slower than by memory.
    seen = ir.FunctionType(ir.VoidType(), [places.type])
    builder.asm(seen, "", "r,~{memory}", [places], side_effect=True)

    def store(index: int) -> None:
        place = builder.load(builder.gep(places, [_I32(index)], inbounds=True))
        claim = builder.load(builder.gep(from_, [_I64(index)], inbounds=True))
        builder.store(claim, builder.gep(to, [builder.zext(place, _I64)], inbounds=True))

    return [partial(store, index) for index in range(64)]


def _store_first(vectors: _Vectors, ints: Any, pointer: Any, n_ints: Any) -> None:
    """Store the first elements of a vector of 32 bits."""
    builder = vectors.builder
    lanes = _constants(_I32, list(range(16)))
    are_stored = builder.icmp_unsigned("<", lanes, vectors.every(_INTS, builder.trunc(n_ints, _I32)))
    there = builder.bitcast(pointer, _INTS.as_pointer())
    function_type = ir.FunctionType(ir.VoidType(), [_INTS, there.type, _I32, are_stored.type])
    name = "llvm.masked.store.v16i32.p0"
    declared = cgutils.get_or_insert_function(builder.module, function_type, name)
    builder.call(declared, [ints, there, _I32(4), are_stored])
