"""Traces as other tools write them, and what is in each: for tests of formats, of conversions, and for fuzzing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

PID = 4711 << 40


def packed_by_arrow(data: bytes, codec: str) -> bytes:
    """Return data as a codec of Arrow's compresses them, in one frame."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def zstd(data: bytes) -> bytes:
    """Return data compressed by Zstandard."""
    return packed_by_arrow(data, "zstd")


def lz4(data: bytes) -> bytes:
    """Return data compressed by LZ4."""
    return packed_by_arrow(data, "lz4")


@dataclass(frozen=True)
class Case:
    """A trace, and (time_ns, page, n_pages, weight) of what is in it."""

    kind: str
    text: str
    rows: list[tuple[int, int, int, int]]
    n_idle: int = 0
    n_unresolved: int = 0
    bad: str = "no such line\n"
    given: dict[str, str] = field(default_factory=dict)


CASES = {
    "tracepoint": Case(
        "damon-tracepoint",
        "       kdamond.0  4000 [000]   820.952659: damon:damon_aggregated: target_id=0 nr_regions=2 "
        "4294967296-4299161600: 3 5\n"
        "       kdamond.0  4000 [000]   820.952663: damon:damon_aggregated: target_id=0 nr_regions=2 "
        "4299161600-8589934592: 0 9\n",
        [(820_952_659_000, 1 << 20, 1024, 3)],
        n_idle=1,
    ),
    "trace_pipe": Case(
        "damon-tracepoint",
        "# tracer: nop\n#\n"
        "       kdamond.0-46      [003] .....  1820.952659: damon_aggregated: target_id=0 nr_regions=2 "
        "4096-8193: 20 5\n"
        "   my kdamond-46      [003] .....  1820.952660: damon_aggregated: target_id=0 nr_regions=2 8193-9000: 1\n",
        [(1_820_952_659_000, 1, 2, 20), (1_820_952_660_000, 2, 1, 1)],
    ),
    "lackey": Case(
        "lackey",
        "==99== Lackey, an example Valgrind tool\n==99== \nI  04016a80,3\n S 1ffefff8a8,8\nI  04016a83,5\n"
        " L 1ffefff8a0,8\n M 0421c7cc,4\n==99== \n",
        [(1, 0x1FFEFFF, 1, 1), (2, 0x1FFEFFF, 1, 1), (2, 0x421C, 1, 1)],
        bad=" X 1ffe,8\n",
    ),
    "ramulator": Case(
        "ramulator",
        "3 20734016\n1 20846400 20734080\n0 4096\n",
        [(4, 5062, 1, 1), (6, 5089, 1, 1), (6, 5062, 1, 1), (7, 1, 1, 1)],
        bad="3 0x2073\n",
    ),
    "drmemtrace": Case(
        "drmemtrace",
        "Output format:\n<--record#-> <--instr#->: <---tid---> <record details>\n"
        "------------------------------------------------------------\n"
        "           1           0:      342625 <marker: version 6>\n"
        "           2           0:      342625 <marker: timestamp 13335432623168950>\n"
        "           3           0:      342625 <marker: tid 342625 on core 5>\n"
        "           4           1:      342625 ifetch       3 byte(s) @ 0x00007fef68041850 48 89 e7   mov\n"
        "           5           1:      342625 write        8 byte(s) @ 0x00007ffc52b3f6d8 by PC 0x00007fef68041853\n"
        "           6           1:      342625 <marker: timestamp 13335432623168990>\n"
        "           7           1:      342625 read         8 byte(s) @ 0x00007fef6807b000 by PC 0x00007fef68041853\n"
        "           8           1:      342625 pref-r-L1    0 byte(s) @ 0x00007fef6807b000 by PC 0x00007fef68041853\n"
        "View tool results:\n              1 : total instructions\n",
        [(0, 0x7FFC52B3F, 1, 1), (40_000, 0x7FEF6807B, 1, 1)],
        bad="           9           1:      342625 read         8 byte(s) at 0x00007fef6807b000\n",
    ),
    "memtierd": Case(
        "memtierd",
        "          timestamp       pid             addr    pages     accs   writes\n"
        " 1779692722000000000     4711     7f0000001000        2        3        1\n"
        " 1779692722000000001     4711     7f0000009000        7        0        0\n".replace(
            "17796", "0779"
        ),
        [(779_92_722_000_000_000, PID | 0x7F0000001, 2, 4)],
        n_idle=1,
    ),
    "perf mem": Case(
        "perf-mem",
        "# PID, TID, IP, ADDR, PHYS ADDR, LOCAL WEIGHT, DSRC, SYMBOL\n"
        " 1234  1235 0xffffffff81a00b20 0xffff88810a1b2c40 0x000000010a1b2c40   311 0x68100142 [kernel.kallsyms]:f\n"
        " 1234  1234 0x0000000000401136 0x00007ffd00001040 0x0000000000000000     7 0x68100142 /bin/x y:main\n",
        [(0, 0x10A1B2, 1, 311)],
        n_unresolved=1,
    ),
    "perf mem, with separators and page sizes": Case(
        "perf-mem",
        "# PID, TID, IP, ADDR, PHYS ADDR, DATA PAGE SIZE, LOCAL WEIGHT, DSRC, SYMBOL\n"
        "1234,1235,0xffffffff81a00b20,0xffff88810a1b2c40,0x000000010a1b2c40,4K,311,0x68100142,x:f\n"
        "1234,1235,0xffffffff81a00b20,0xffff88810a1b2c40,0x000000010a1b3c40,N/A,12,0x68100142,x:f\n",
        [(0, 0x10A1B2, 1, 311), (1000, 0x10A1B3, 1, 12)],
    ),
    "hot lists": Case(
        "cxl-hmu",
        # Laid out as perf does, the numbers made up.
        "\n0x1a8 [0x70]: event: 1\n.\n. ... raw event: size 112 bytes\n.  0000:  01 00 00 00 01 00 70 00\n\n"
        "-1 -1 0x1a8 [0x70]: PERF_RECORD_MMAP -1/0: [0xffff800080000000(0x1000) @ 0]: x [kernel.kallsyms]\n\n"
        "0x300 [0x30]: event: 71\n.\n. ... raw event: size 48 bytes\n\n"
        "0 0 0x300 [0x30]: PERF_RECORD_AUXTRACE size: 0x48  offset: 0  ref: 0x5ab6  idx: 2  tid: -1  cpu: 2\n.\n"
        ". ... CXL_HMU data: size 72 bytes\nHeader 0: units: 3 counter_width 10\nHeader 1 : deadbeef\n"
        "0000000000000283\n0000000000010364\n00000000000c0366\n"
        "Header 0: units: 1 counter_width 8\nHeader 1 : deadbeef\n00000000000001ff\n\n"
        "2 1500000000 0x400 [0x40]: PERF_RECORD_AUX offset: 0 size: 0x28 flags: 0 []\n"
        "3 1600000000 0x440 [0x40]: PERF_RECORD_AUX offset: 0x28 size: 0x18 flags: 0 []\n"
        "2 1700000000 0x480 [0x40]: PERF_RECORD_AUX offset: 0x28 size: 0x20 flags: 0 []\n",
        [
            (1_500_000_000, 1 << 20, 1, 0x283),
            (1_500_000_000, (1 << 20) + 1, 1, 0x364),
            (1_500_000_000, (1 << 20) + 12, 1, 0x366),
            (1_700_000_000, (1 << 20) + 1, 1, 0xFF),
        ],
        bad="Header 0: units: 2 counter_width 10\nHeader 1 : deadbeef\n0000000000000001\n",
        given={"unit": "4KiB", "base": "0x100000000"},
    ),
}
