"""Atomics, bit counts and wide loads on array elements, as Numba intrinsics.

Inside kernels every word, whatever the array's dtype, is an int64: 8 and 32-bit
elements are zero-extended, 64-bit ones keep their bits. That avoids Numba's
promotion of ``uint64 op int64`` to float64; ``w & (w - 1)``, ``1 << 63`` and
comparisons with 0 mean the same in two's complement. Shift such words right only
where the result is masked.

Read-modify-writes and loads are sequentially consistent. On x86-64 that costs
nothing over weaker orders (a locked instruction is a full barrier, a load is a
load); on arm64 it is what lets a producer skip a bit it sees set.

Arrays are one-dimensional and C-contiguous; indexes are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

_ORDER = "seq_cst"
_I64 = ir.IntType(64)

_Codegen = Callable[[Any, ir.IRBuilder, Any, Any], Any]
intrinsic = cast(Callable[[Callable[..., tuple[Any, _Codegen]]], Any], numba_intrinsic)


def _element(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> tuple[Any, Any]:
    """Return a pointer to an element and its LLVM integer type."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True), ir.IntType(array_type.dtype.bitwidth)


def _widened(builder: Any, word: Any) -> Any:
    return word if word.type.width == 64 else builder.zext(word, _I64)


def _narrowed(builder: Any, word: Any, element_type: Any) -> Any:
    return word if element_type.width == 64 else builder.trunc(word, element_type)


def _read_modify_write(operation: str) -> Any:
    def typed(_context: Any, array: Any, _index: Any, _word: Any) -> tuple[Any, _Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
            word = _narrowed(builder, args[2], element_type)
            return _widened(builder, builder.atomic_rmw(operation, pointer, word, _ORDER))

        return types.int64(array, types.int64, types.int64), codegen

    typed.__name__ = f"atomic_{operation}"
    return intrinsic(typed)


atomic_or = _read_modify_write("or")
"""``atomic_or(array, index, word)``: set bits, return the word before."""
atomic_and = _read_modify_write("and")
"""``atomic_and(array, index, word)``: keep the bits of ``word``, return the word before."""
atomic_exchange = _read_modify_write("xchg")
"""``atomic_exchange(array, index, word)``: store ``word``, return the word before."""


@intrinsic
def atomic_compare_exchange(
    _context: Any, array: Any, _index: Any, _expected: Any, _word: Any
) -> tuple[Any, _Codegen]:
    """``atomic_compare_exchange(array, index, expected, word)``: store ``word`` where ``expected`` was.

    Returns the word before: it was stored if that is ``expected``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        expected = _narrowed(builder, args[2], element_type)
        word = _narrowed(builder, args[3], element_type)
        result = builder.cmpxchg(pointer, expected, word, _ORDER, _ORDER)
        return _widened(builder, builder.extract_value(result, 0))

    return types.int64(array, types.int64, types.int64, types.int64), codegen


def has_features(context: Any, needed: set[str]) -> bool:
    """Return whether LLVM compiles for x86-64 with these features."""
    triple, _, features = context.codegen().magic_tuple()
    return bool(triple.startswith("x86_64")) and needed <= set(features.split(","))


def _has_pair_exchange(context: Any) -> bool:
    """Return whether LLVM has an instruction for 16 bytes where it compiles for, and no call in its place.

    AArch64 always; x86-64 but for its first years, unless features are not told.
    """
    triple, _, _ = context.codegen().magic_tuple()
    return bool(triple.startswith("aarch64")) or has_features(context, {"+cx16"})


@intrinsic
def take_pairs(
    _context: Any,
    wide: Any,
    _index: Any,
    _ready: Any,
    _wanted: Any,
    longs: Any,
    _place: Any,
    _first: Any,
    narrow: Any,
) -> tuple[Any, _Codegen]:
    """``take_pairs(wide, index, ready, wanted, longs, place, first, narrow)``: take words 16 bytes at a time.

    64 elements of ``narrow`` are seen as 64-bit ones, ``wide``, from ``index`` on, which is even; ``wide``
    begins at a multiple of 16 bytes. Each 16 bytes that are wholly in ``wanted``, a bit for each element, and
    have all bits of ``ready`` in both halves, are exchanged for 0, and their elements stored as
    :func:`store_numbered` does: those of element i at ``place + i``, with the number ``first + i``. Returns a
    bit for each 16 bytes that were taken: none where LLVM has no exchange as wide. What is stored for others
    means nothing.

    The next 16 bytes are loaded before an exchange, which nothing behind it passes: so exchanges follow one
    another without a load in between. What was loaded early and has changed since fails to be exchanged.
    Where all 64 are wanted and ready this is asked once.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _has_pair_exchange(context):
            return _I64(0)
        halves, _ = _element(context, builder, signature.args[0], args[0], args[1])
        places, _ = _element(context, builder, signature.args[4], args[4], args[5])
        pairs = _Pairs(builder, halves, args[2], places, args[6], signature.args[7].dtype.bitwidth)
        taken = cgutils.alloca_once(builder, _I64)
        are_all = cgutils.alloca_once_value(builder, cgutils.false_bit)
        with builder.if_then(builder.icmp_unsigned("==", args[3], _I64(-1)), likely=True):
            seen, are_ready = pairs.look()
            builder.store(are_ready, are_all)
        with builder.if_else(builder.load(are_all), likely=True) as (all_at_once, one_by_one):
            with all_at_once:
                builder.store(pairs.take_all(seen), taken)
            with one_by_one:
                builder.store(pairs.take_each(args[3]), taken)
        return builder.load(taken)

    types_of = (wide, types.int64, types.int64, types.int64, longs, types.int64, types.int64, narrow)
    return types.int64(*types_of), codegen


@intrinsic
def atomic_load(_context: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``atomic_load(array, index)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        return _widened(builder, builder.load_atomic(pointer, _ORDER, element_type.width // 8))

    return types.int64(array, types.int64), codegen


@intrinsic
def atomic_clear(_context: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``atomic_clear(array, index)``: store 0, in no order but what :func:`full_fence` makes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(element_type(0), pointer, "monotonic", element_type.width // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@intrinsic
def full_fence(_context: Any) -> tuple[Any, _Codegen]:
    """``full_fence()``: what is before it comes before what is after it, stores before loads, too."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        builder.fence(_ORDER)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def plain_load(_context: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``plain_load(array, index)``: for arrays that no other thread writes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _element(context, builder, signature.args[0], args[0], args[1])
        return _widened(builder, builder.load(pointer))

    return types.int64(array, types.int64), codegen


@intrinsic
def element_bits(_context: Any, array: Any) -> tuple[Any, _Codegen]:
    """``element_bits(array)``: how wide an element is.

    A constant, which ``itemsize`` is not: loops over it are unrolled.
    """

    def codegen(_context: Any, _builder: Any, signature: Any, _args: Any) -> Any:
        return _I64(signature.args[0].dtype.bitwidth)

    return types.int64(array), codegen


@intrinsic
def plain_store(_context: Any, array: Any, _index: Any, _word: Any) -> tuple[Any, _Codegen]:
    """``plain_store(array, index, word)``: for arrays that no other thread touches.

    An assignment would look first whether the index counts from the end, at every store.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        builder.store(_narrowed(builder, args[2], element_type), pointer)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), codegen


@intrinsic
def store_numbered(
    _context: Any, longs: Any, _index: Any, _group: Any, _first: Any, narrow: Any
) -> tuple[Any, _Codegen]:
    """``store_numbered(longs, index, group, first, narrow)``: store each part of 64 bits with a number.

    The parts are as wide as elements of ``narrow``. Each becomes the low bits of an element of ``longs``,
    from ``index`` on, and the bits above count up from ``first``. No other thread touches these.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _element(context, builder, signature.args[0], args[0], args[1])
        words = _parts(builder, args[2], signature.args[4].dtype.bitwidth)
        _store_numbered(builder, pointer, words, args[3])
        return context.get_dummy_value()

    return types.void(longs, types.int64, types.int64, types.int64, narrow), codegen


@intrinsic
def count_trailing_zeros(_context: Any, _word: Any) -> tuple[Any, _Codegen]:
    """``count_trailing_zeros(word)``: position of the lowest set bit; 64 for 0."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.int64), codegen


@intrinsic
def count_ones(_context: Any, _word: Any) -> tuple[Any, _Codegen]:
    """``count_ones(word)``: how many of the 64 bits are set."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def or_256_bytes(_context: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``or_256_bytes(array, index)``: the OR of 32 elements of a 64-bit array. Plain loads: a hint."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _element(context, builder, signature.args[0], args[0], args[1])
        vector_type = ir.VectorType(_I64, 4)
        vectors = builder.bitcast(pointer, vector_type.as_pointer())
        loaded = [_vector_load(builder, vectors, step, 8) for step in range(8)]
        while len(loaded) > 1:
            loaded = [builder.or_(left, right) for left, right in zip(loaded[::2], loaded[1::2], strict=True)]
        lanes = [builder.extract_element(loaded[0], ir.IntType(32)(lane)) for lane in range(4)]
        return builder.or_(builder.or_(lanes[0], lanes[1]), builder.or_(lanes[2], lanes[3]))

    return types.int64(array, types.int64), codegen


@intrinsic
def match_64(_context: Any, array: Any, _index: Any, _mask: Any) -> tuple[Any, _Codegen]:
    """``match_64(array, index, mask)``: bit i is set where element ``index + i`` has a bit of ``mask``.

    Plain loads of 64 elements: a hint.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        # In pieces of a register: LLVM turns each into a compare and a movmsk, but 64 lanes at
        # once into 64 scalar steps where there are no AVX-512 mask registers. VBMI: the first
        # ones with AVX-512 lower their clock for registers of 512 bits, and they lack it.
        is_wide = has_features(context, {"+avx512bw", "+avx512vbmi"})
        n_lanes = (512 if is_wide else 256) // element_type.width
        vector_type = ir.VectorType(element_type, n_lanes)
        vectors = builder.bitcast(pointer, vector_type.as_pointer())
        mask = _narrowed(builder, args[2], element_type)
        masks = _every_lane(builder, mask, n_lanes)
        matched = _I64(0)
        for step in range(64 // n_lanes):
            loaded = _vector_load(builder, vectors, step, element_type.width // 8)
            hits = builder.icmp_unsigned(
                "!=", builder.and_(loaded, masks), ir.Constant(vector_type, [0] * n_lanes)
            )
            bits = builder.zext(builder.bitcast(hits, ir.IntType(n_lanes)), _I64)
            matched = builder.or_(matched, builder.shl(bits, _I64(step * n_lanes)))
        return matched

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def differ_64(_context: Any, array: Any, _index: Any, _mask: Any) -> tuple[Any, _Codegen]:
    """``differ_64(array, index, mask)``: not 0 where 64 elements differ from each other in a bit of ``mask``.

    For arrays that no other thread writes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        n_lanes = 256 // element_type.width
        vector_type = ir.VectorType(element_type, n_lanes)
        vectors = builder.bitcast(pointer, vector_type.as_pointer())
        firsts = _every_lane(builder, builder.load(pointer), n_lanes)
        differing = ir.Constant(vector_type, [0] * n_lanes)
        for step in range(64 // n_lanes):
            loaded = _vector_load(builder, vectors, step, element_type.width // 8)
            differing = builder.or_(differing, builder.xor(loaded, firsts))
        masks = _every_lane(builder, _narrowed(builder, args[2], element_type), n_lanes)
        hits = builder.icmp_unsigned(
            "!=", builder.and_(differing, masks), ir.Constant(vector_type, [0] * n_lanes)
        )
        return builder.zext(builder.bitcast(hits, ir.IntType(n_lanes)), _I64)

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def copy_64(_context: Any, to: Any, _place: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``copy_64(to, place, array, index)``: copy 64 elements of the same width.

    For arrays that no other thread touches, and that do not overlap.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, element_type = _element(context, builder, signature.args[0], args[0], args[1])
        source, _ = _element(context, builder, signature.args[2], args[2], args[3])
        n_lanes = 256 // element_type.width
        vector_type = ir.VectorType(element_type, n_lanes)
        targets = builder.bitcast(target, vector_type.as_pointer())
        sources = builder.bitcast(source, vector_type.as_pointer())
        for step in range(64 // n_lanes):
            place = builder.gep(targets, [ir.IntType(32)(step)], inbounds=True)
            stored = builder.store(_vector_load(builder, sources, step, element_type.width // 8), place)
            stored.align = element_type.width // 8
        return context.get_dummy_value()

    return types.void(to, types.int64, array, types.int64), codegen


@intrinsic
def prefetch(_context: Any, array: Any, _index: Any) -> tuple[Any, _Codegen]:
    """``prefetch(array, index)``: start loading the cache line of an element."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, _ = _element(context, builder, signature.args[0], args[0], args[1])
        address = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], function_type)
        builder.call(function, [address, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


class _Pairs:
    """Builds :func:`take_pairs`: 64 elements from ``halves`` on, and where they go."""

    def __init__(
        self, builder: Any, halves: Any, ready: Any, places: Any, first: Any, part_bits: int
    ) -> None:
        self.builder, self.halves, self.ready, self.places, self.first = builder, halves, ready, places, first
        self.part_bits = part_bits
        self.n_halves = part_bits

    def look(self) -> tuple[Any, Any]:
        """Return what is there, kept so that it does not change, and whether all of it is ready."""
        builder = self.builder
        vector_type = ir.VectorType(_I64, 4)
        vectors = builder.bitcast(self.halves, vector_type.as_pointer())
        n_vectors = self.n_halves // 4
        # Others write here: what is checked must be what is kept, and an ordinary load may be repeated.
        loaded = [_vector_load_once(builder, vectors, step, 8) for step in range(n_vectors)]
        kept = cgutils.alloca_once(builder, ir.ArrayType(vector_type, n_vectors))
        for step, vector in enumerate(loaded):
            builder.store(vector, builder.gep(kept, [ir.IntType(32)(0), ir.IntType(32)(step)], inbounds=True))
        # No instruction, but LLVM does not know: else it takes each word out of a vector, or loads it again.
        seen = ir.FunctionType(ir.VoidType(), [kept.type])
        builder.asm(seen, "", "r,~{memory}", [kept], side_effect=True)
        while len(loaded) > 1:
            loaded = [builder.and_(*two) for two in zip(loaded[::2], loaded[1::2], strict=True)]
        every_ready = _every_lane(builder, self.ready, 4)
        lacks_one = builder.icmp_unsigned("!=", builder.and_(loaded[0], every_ready), every_ready)
        lanes = builder.bitcast(lacks_one, ir.IntType(4))
        return kept, builder.icmp_unsigned("==", lanes, ir.IntType(4)(0))

    def take_all(self, seen: Any) -> Any:
        """Exchange what was seen, all of it ready, then store it."""
        builder = self.builder
        words = builder.bitcast(seen, _I64.as_pointer())

        def loaded(half: int) -> Any:
            return builder.load(builder.gep(words, [_I64(half)], inbounds=True))

        taken = _I64(0)
        following = loaded(0), loaded(1)
        for pair in range(self.n_halves // 2):
            low_high = following
            if 2 * pair + 2 < self.n_halves:
                following = loaded(2 * pair + 2), loaded(2 * pair + 3)
            taken = builder.or_(taken, builder.shl(self.exchanged(pair, *low_high), _I64(pair)))
        eight_type = ir.VectorType(ir.IntType(self.part_bits), 8)
        eights = builder.bitcast(seen, eight_type.as_pointer())
        for step in range(8):
            to = builder.gep(self.places, [_I64(8 * step)], inbounds=True)
            number = builder.add(self.first, _I64(8 * step))
            _store_numbered(builder, to, _vector_load(builder, eights, step, 1), number)
        return taken

    def take_each(self, wanted: Any) -> Any:
        """Exchange, and store, 16 bytes where they are wanted and ready."""
        builder = self.builder

        def loaded(half: int) -> Any:
            there = builder.gep(self.halves, [_I64(half)], inbounds=True)
            return builder.load_atomic(there, "monotonic", 8)

        taken = _I64(0)
        following = loaded(0), loaded(1)
        pair_pages = 128 // self.part_bits
        for pair in range(self.n_halves // 2):
            words = following
            if 2 * pair + 2 < self.n_halves:
                following = loaded(2 * pair + 2), loaded(2 * pair + 3)
            all_wanted = _I64(((1 << pair_pages) - 1) << (pair_pages * pair))
            before = builder.block
            is_wanted = builder.icmp_unsigned("==", builder.and_(wanted, all_wanted), all_wanted)
            ready = builder.and_(builder.and_(*words), self.ready)
            are_ready = builder.icmp_unsigned("==", ready, self.ready)
            with builder.if_then(builder.and_(is_wanted, are_ready)):
                succeeded = self.exchanged(pair, *words)
                for half, word in enumerate(words):
                    self.store(2 * pair + half, word)
                taken_here = builder.or_(taken, builder.shl(succeeded, _I64(pair)))
                inside = builder.block
            joined = builder.phi(_I64)
            joined.add_incoming(taken, before)
            joined.add_incoming(taken_here, inside)
            taken = joined
        return taken

    def exchanged(self, pair: int, low: Any, high: Any) -> Any:
        """Exchange 16 bytes for 0 if they are these two words; return 1 if they were."""
        builder, pair_type = self.builder, ir.IntType(128)
        low, high = builder.zext(low, pair_type), builder.zext(high, pair_type)
        expected = builder.or_(low, builder.shl(high, pair_type(64)))
        there = builder.gep(self.halves, [_I64(2 * pair)], inbounds=True)
        there = builder.bitcast(there, pair_type.as_pointer())
        result = builder.cmpxchg(there, expected, pair_type(0), _ORDER, _ORDER)
        return builder.zext(builder.extract_value(result, 1), _I64)

    def store(self, half: int, word: Any) -> None:
        """Store the elements of 8 bytes, numbered."""
        element = half * (64 // self.part_bits)
        to = self.builder.gep(self.places, [_I64(element)], inbounds=True)
        number = self.builder.add(self.first, _I64(element))
        _store_numbered(self.builder, to, _parts(self.builder, word, self.part_bits), number)


def _parts(builder: Any, word: Any, part_bits: int) -> Any:
    """Return the parts of 64 bits as a vector."""
    return builder.bitcast(word, ir.VectorType(ir.IntType(part_bits), 64 // part_bits))


def _store_numbered(builder: Any, pointer: Any, words: Any, first: Any) -> None:
    """Store each word of a vector in 64 bits, with a number above it that counts up from ``first``."""
    n_lanes, part_bits = words.type.count, words.type.element.width
    longs_type = ir.VectorType(_I64, n_lanes)
    numbers = _every_lane(builder, builder.shl(first, _I64(part_bits)), n_lanes)
    behind = ir.Constant(longs_type, [lane << part_bits for lane in range(n_lanes)])
    numbered = builder.or_(builder.zext(words, longs_type), builder.add(numbers, behind))
    stored = builder.store(numbered, builder.bitcast(pointer, longs_type.as_pointer()))
    stored.align = 8


def _every_lane(builder: Any, word: Any, n_lanes: int) -> Any:
    """Return a vector with ``word`` in each of its lanes."""
    nothing = ir.Constant(ir.VectorType(word.type, n_lanes), ir.Undefined)
    lane = builder.insert_element(nothing, word, ir.IntType(32)(0))
    every_lane = ir.Constant(ir.VectorType(ir.IntType(32), n_lanes), [0] * n_lanes)
    return builder.shuffle_vector(lane, nothing, every_lane)


def _vector_load(builder: Any, vectors: Any, step: int, align: int) -> Any:
    loaded = builder.load(builder.gep(vectors, [ir.IntType(32)(step)], inbounds=True))
    loaded.align = align
    return loaded


class _VolatileLoad(ir.instructions.LoadInstr):  # type: ignore[misc]
    """A load that LLVM neither repeats nor leaves out."""

    def descr(self, buf: list[str]) -> None:
        plain: list[str] = []
        super().descr(plain)
        buf.append("".join(plain).replace("load ", "load volatile ", 1))


def _vector_load_once(builder: Any, vectors: Any, step: int, align: int) -> Any:
    there = builder.gep(vectors, [ir.IntType(32)(step)], inbounds=True)
    loaded = _VolatileLoad(builder.block, there)
    loaded.align = align
    builder._insert(loaded)
    return loaded
