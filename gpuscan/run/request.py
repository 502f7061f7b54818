"""What a run is asked to be: one description, from the command line to the checkpoint.

Every front door makes a :class:`RunRequest`: ``gpuscan run`` of its options, ``gpuscan resume`` of what a
checkpoint kept and what is said anew, ``gpuscan compare`` for its workload, :func:`gpuscan.build_scenario` of
its arguments. A field says about itself what it is (:mod:`gpuscan.base.described`); what follows from several
is a property here, so that nobody else has to know their names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gpuscan.base.described import Again, Option, described
from gpuscan.base.errors import InputError
from gpuscan.base.given import GIVEN_OPTION
from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers
from gpuscan.base.program import PROGRAM
from gpuscan.base.residency import RECORDS_DIR_OPTION, RESIDENCY_OPTION, Residency, check_options
from gpuscan.base.units import parse_share, parse_time_ns
from gpuscan.kernels.catalogue import device_names
from gpuscan.producers.catalogue import PRODUCERS
from gpuscan.workload import DEFAULT_WORKLOAD

_EVERY = "1min"
_SNAPSHOT = ".zarr"


def is_captured(machine: Path) -> bool:
    """Whether a path is meant as a captured machine, and not as the name or the file of a topology."""
    if machine.suffix == _SNAPSHOT or not machine.is_dir():
        return machine.suffix == _SNAPSHOT
    from gpuscan.topology.catalogue import is_known_directory

    return not is_known_directory(machine)


@dataclass(frozen=True, slots=True)
class Every:
    """How often a checkpoint is written: after so many ticks, or so much wall time (when a tick ends)."""

    n_ticks: int = 0
    wall_ns: int = 0

    @classmethod
    def parse(cls, text: str) -> Every:
        """Return what a number (ticks) or a time with a unit says.

        Raises:
            InputError: it is neither, or nothing.
        """
        every = cls(n_ticks=int(text)) if text.isdecimal() else cls(wall_ns=parse_time_ns(text))
        if not (every.n_ticks or every.wall_ns):
            raise InputError(f"--every {text}: a checkpoint cannot be written all the time; give 10, or 30s")
        return every


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What was asked for, as it was written: a name, a size or a time is looked at where it is used."""

    workload: str = described(
        DEFAULT_WORKLOAD,
        Option("A built-in workload (gpuscan workloads), a TOML file, or a snapshot.", is_argument=True),
    )
    trace: Path | None = described(
        None, Option("Replay recorded accesses: text of perf script, a damo record.", metavar="FILE")
    )
    given: tuple[str, ...] = described((), GIVEN_OPTION)
    machine: Path | None = described(
        None, Option("Run on a captured machine.", metavar="SNAPSHOT", kept=True)
    )
    topology: str | None = described(
        None,
        Option(
            "Run on a preset, a file that describes a machine or host, instead of the workload's machine.",
            metavar="NAME",
        ),
    )
    split_cxl: str | None = described(
        None,
        Option("Declare the upper share of a one-node SNAPSHOT CXL memory: 50%.", metavar="SHARE", kept=True),
    )
    tiers: tuple[str, ...] = described((), TIER_OPTION)
    memory: str | None = described(
        None, Option("Size of the simulated machine: 64GiB, 1TiB.", metavar="SIZE")
    )
    ticks: int | None = described(None, Option("Rounds to run, instead of the workload's.", low=1))
    seed: int | None = described(None, Option("Seed; the same one gives the same result.", low=0))
    device: str | None = described(
        None,
        Option(
            "Where the scan runs; auto takes the best there is (gpuscan doctor).",
            choices=device_names(),
            kept=True,
            again=Again("Where the scan runs from here on, instead of the run's device."),
        ),
    )
    design: str = described(PROGRAM, Option("Scan design, one of {designs}.", metavar="NAME"))
    producer: str | None = described(
        None,
        Option(
            "What turns accesses into marks, instead of the workload's: docs/producers.md.",
            choices=PRODUCERS.names,
        ),
    )
    fallback: bool = described(
        False, Option("Go on on the CPU when the device fails in the middle.", kept=True, again=Again())
    )
    n_threads: int | None = described(
        None,
        Option(
            "Worker threads of the CPU device, per shard.",
            ("--threads",),
            metavar="N",
            low=1,
            kept=True,
            again=Again("Worker threads of the CPU device."),
        ),
    )
    residency: Residency = described("device", RESIDENCY_OPTION)
    records_dir: Path | None = described(None, RECORDS_DIR_OPTION)
    workers: int | None = described(
        None,
        Option(
            "Keep the records in N processes of this machine (Dask); with --cluster, await N workers.",
            metavar="N",
            low=1,
            kept=True,
            again=Again(
                "Keep the records in N processes (with --cluster: await N), whatever it was; 0: here.", low=0
            ),
        ),
    )
    cluster: str | None = described(
        None,
        Option(
            "Keep them on the workers of this Dask cluster: tls://host:8786, or scheduler file .json.",
            metavar="ADDRESS",
            kept=True,
            trusted=False,
            again=Again("Keep them on the workers of this Dask cluster from here on."),
        ),
    )
    insecure: bool = described(
        False, Option("Join a --cluster without TLS, on a network that is yours.", again=Again())
    )
    shard_dir: Path | None = described(
        None,
        Option(
            "Where shards keep checkpoints and logs to survive a lost worker; every worker sees it.",
            metavar="DIR",
            kept=True,
            trusted=False,
            again=Again("Where shards keep checkpoints and logs, instead of the run's."),
        ),
    )
    overrides: tuple[str, ...] = described(
        (), Option("Override a key of the workload; can be repeated.", ("--set",), metavar="KEY=VALUE")
    )
    out: Path | None = described(
        None,
        Option("Keep plan, series (Parquet), ledger and report (JSON) there.", metavar="DIR", kept=True),
    )
    checkpoint: Path | None = described(
        None,
        Option("Keep checkpoints there; 'gpuscan resume DIR' goes on from the last.", metavar="DIR"),
    )
    every: str | None = described(
        None,
        Option(
            f"Ticks, or a time (30s), between two checkpoints.  [default: {_EVERY}]",
            metavar="N",
            kept=True,
            again=Again("Ticks, or a time, between two checkpoints, instead of the run's."),
        ),
    )
    force: bool = described(
        False,
        Option(
            "Replace an earlier result at --out, or another run's checkpoints.",
            kept=True,
            trusted=False,
            again=Again("Replace an earlier result at the run's --out."),
        ),
    )

    @property
    def is_model(self) -> bool:
        """Whether the design is a model of another; of our own that is known without the catalogue.

        Raises:
            InputError: there is no such design.
        """
        if self.design == PROGRAM:
            return False
        from gpuscan.designs.catalogue import DESIGNS  # takes 18 ms to start

        return not DESIGNS.get(self.design).runs_on_a_store

    @property
    def is_of_a_snapshot(self) -> bool:
        """Whether the machine is a captured one."""
        return self.machine is not None

    def with_named_machine(self) -> RunRequest:
        """Return it with a topology under its own name that was given under that of a captured machine, as
        comparisons took it in earlier versions."""
        if self.machine is None or self.topology is not None or is_captured(self.machine):
            return self
        return replace(self, topology=str(self.machine), machine=None)

    @property
    def cxl_share(self) -> float | None:
        """The upper share of a captured machine that counts as CXL memory, 0 to 1; None = none.

        Raises:
            InputError: it is not a share.
        """
        return None if self.split_cxl is None else parse_share(self.split_cxl)

    @property
    def node_tiers(self) -> dict[int, int]:
        """The tiers that nodes are put into, whatever the machine says, by nid.

        Raises:
            InputError: one is no tier of a node.
        """
        return parse_tiers(self.tiers)

    @property
    def pace(self) -> Every:
        """How often a checkpoint is written.

        Raises:
            InputError: it says nothing.
        """
        return Every.parse(self.every or _EVERY)

    def with_pace(self) -> RunRequest:
        """Return it with the default where nobody said how often a checkpoint is written."""
        return replace(self, every=self.every or _EVERY)

    def sorted_out(self) -> RunRequest:
        """Return it with every machine under its own name.

        A captured one may be given in place of the workload, and a topology under the name of a captured
        machine.
        """
        found = self
        if found.workload.endswith(_SNAPSHOT) and found.machine is None:
            found = replace(found, workload=DEFAULT_WORKLOAD, machine=Path(found.workload))
        return found.with_named_machine()

    def check(self) -> None:
        """Refuse options that contradict each other, before anything is read.

        Raises:
            InputError: some do.
        """
        if self.every is not None and self.checkpoint is None:
            raise InputError("--every is for checkpoints; give --checkpoint DIR too")
        self._check_machine()
        self._check_residency()
        self.check_shards()

    def _check_machine(self) -> None:
        if self.machine is None:
            if self.split_cxl is not None:
                raise InputError("--split-cxl divides a captured machine; give one with --machine SNAPSHOT")
            return
        for flag, value in (("--memory", self.memory), ("--topology", self.topology)):
            if value is not None:
                has = "the memory it has" if flag == "--memory" else "a topology of its own"
                raise InputError(f"{self.machine} has {has}; leave out {flag} or --machine")

    def _check_residency(self) -> None:
        check_options(self.residency, self.records_dir)
        if self.residency == "device":
            return
        for flag, is_given, why in (
            ("--workers", self.workers is not None, "shards keep their records on their devices"),
            ("--cluster", self.cluster is not None, "shards keep their records on their devices"),
            ("--fallback", self.fallback, "what may take over keeps a copy of all records in memory"),
            ("--checkpoint", self.checkpoint is not None, "a checkpoint is read back into memory as a whole"),
            ("--design", self.is_model, "a model runs on no device"),
        ):
            if is_given:
                raise InputError(f"--residency index: {why}; leave it out, or {flag}")

    def check_shards(self) -> None:
        """Refuse what does not go with the place of the records.

        Raises:
            InputError: something does not.
        """
        if self.is_model and (self.workers is not None or self.cluster is not None):
            raise InputError(
                f"the design {self.design} is a model that has no shards; leave out --workers and --cluster"
            )
        if self.insecure and self.cluster is None:
            raise InputError(
                "--insecure is for a cluster to join; give --cluster ADDRESS too, or leave it out"
            )
        if self.workers is None and self.cluster is None:
            if self.shard_dir is not None:
                raise InputError("--shard-dir is for shards; give --workers N or --cluster ADDRESS too")
        elif self.fallback and self.cluster is not None and self.shard_dir is None:
            raise InputError(
                "a shard whose device failed is made anew from what it keeps in --shard-dir; give one that "
                "every worker sees, or leave out --fallback"
            )

    def check_kept(self) -> None:
        """Refuse what checkpoints cannot be kept of, or not that often.

        Raises:
            InputError: the state of another design is not kept, nor which one it was.
        """
        if self.design != PROGRAM:
            what = "is a model whose state" if self.is_model else "is another one, which"
            raise InputError(
                f"the design {self.design} {what} is not kept; leave out --checkpoint or --design"
            )
        _ = self.pace
