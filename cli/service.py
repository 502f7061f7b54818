"""``gpuscan service``: keep the memory of chosen processes where it belongs while the machine runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.cli.alone import import_without_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuscan.cli.output import Output
    from gpuscan.service.config import Config

SHOWN = ("alerts.yml", "dashboard.json", "metrics.conf", "Containerfile", "daemonset.yaml")
"""Files for a Prometheus, a Grafana, systemd where metrics are wanted, an image, and Kubernetes."""


def service(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.toml", help="What to do.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Say whether CONFIG makes sense, and end.")] = False,
    explain: Annotated[
        int | None, typer.Option(metavar="PID", help="Say which rule a process goes by, and why.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Write systemd's unit and a first CONFIG below /etc, and end.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="With --install: replace what is there.")] = False,
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Print a file that comes with it, and end: {', '.join(SHOWN)}."),
    ] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="Listen there for gpuscan ctl.")] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep there what was done, for gpuscan history.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes.")] = False,
) -> None:
    """Watch the processes that rules choose, and move their pages between near and far memory.

    Runs until SIGTERM, reads CONFIG again at SIGHUP or 'gpuscan ctl reload', and leaves the
    kernel's settings as they were. What it does: 'gpuscan ctl status'; what it did: 'gpuscan history'.

    \b
    gpuscan service mine.toml --check              does it make sense?
    gpuscan service mine.toml --explain 4711       which rule, and why
    sudo gpuscan service --install                 unit and first CONFIG
    sudo gpuscan service mine.toml
    """
    from gpuscan.base.errors import InputError
    from gpuscan.cli.output import Output

    output = Output(as_json, quiet=quiet)
    if sum((check, explain is not None, install, show is not None)) > 1:
        raise InputError("--check, --explain, --install and --show end with what they do; give one of them")
    if force and not install:
        raise InputError("--force replaces files of --install; give both, or neither")
    if install:
        _install(output, force=force)
        return
    if show is not None:
        _show(output, show)
        return
    if config is None:
        raise InputError("say what to do: gpuscan service CONFIG.toml; --install writes a first one")
    if check or explain is not None:
        from gpuscan.service.load import load_config

        found = load_config(config)
        if explain is None:
            _check(found, config, output)
        else:
            _explain(found, explain, output)
        return
    if context.obj.owns_process:
        import_without_threads()
    _serve(config, socket, history, output, owns_process=context.obj.owns_process)


def _serve(
    path: Path, socket: Path | None, history: Path | None, output: Output, *, owns_process: bool
) -> None:
    from contextlib import ExitStack

    from gpuscan.base.allocator import keep_freed_memory
    from gpuscan.base.descriptors import take_all_descriptors
    from gpuscan.history.database import History
    from gpuscan.history.recording import Nowhere, Recorder
    from gpuscan.history.schema import HISTORY
    from gpuscan.linux.system import HERE
    from gpuscan.live.stop import Stop
    from gpuscan.service.control import ControlSocket, group_id
    from gpuscan.service.journal import Log, Told
    from gpuscan.service.load import load_config
    from gpuscan.service.notify import Notifier
    from gpuscan.service.session import ServiceSession
    from gpuscan.service.status import status_line
    from gpuscan.service.wire import SOCKET

    def load() -> Config:
        found = load_config(path)
        group_id(found.service.group)  # at the next start it is used
        return found

    config = load()
    gid = group_id(config.service.group)
    keep_freed_memory()
    if owns_process:  # each process that is watched takes one
        take_all_descriptors()

    def open_recorder() -> Recorder:
        most_bytes = config.service.history
        kept = History(history or HERE.root / HISTORY, most_bytes) if most_bytes else Nowhere()
        return Told(kept, log)

    def open_inbox(stop: Stop) -> ControlSocket:
        return ControlSocket(socket or HERE.root / SOCKET, gid, stop)

    with ExitStack() as stack:
        log = Log(output.note)
        stack.callback(log.close)
        session = stack.enter_context(
            ServiceSession(
                config,
                load,
                open_inbox,
                open_recorder=open_recorder,
                notifier=Notifier(),
                owns_process=owns_process,
            )
        )

        show: Callable[[], None] | None = None
        if config.service.metrics is not None:  # only now: its thread has the rights that are left
            from gpuscan.live.metrics import Exporter
            from gpuscan.service.metrics import Shown

            exporter = Exporter(*config.service.metrics)
            stack.callback(exporter.close)
            show = Shown(session, exporter)

        def on_start() -> None:
            for note in session.notes:
                log.say(note, is_warning=True)
            if session.recorder.problem:
                log.say(session.recorder.problem, is_warning=True)
            monitor = session.pipeline.monitor.name
            log.say(f"{status_line(session)}, with {monitor}", event="running", monitor=monitor)

        session.run(on_start, lambda _: None, show or (lambda: None))
        log.say(f"ended; {status_line(session)}", event="ended", moved_pages=session.totals.moved_pages)


def _check(config: Config, path: Path, output: Output) -> None:
    from gpuscan.service.control import group_id
    from gpuscan.service.helpers.combining import helped

    group_id(config.service.group)
    by_kernel = helped(config)
    not_here = _why_not_here(config)
    rules = [
        {
            "name": rule.name,
            "policy": rule.policy,
            "rate_bytes_per_s": rule.rate,
            "backend": rule.backend,
            "helpers": list(by_kernel.get(rule.name, ())),
        }
        for rule in config.rule
    ]
    output.document({"config": str(path), "ok": True, "not_here": not_here, "rules": rules})
    n = len(config.rule)
    output.line(f"{path} makes sense: {n} rule{'' if n == 1 else 's'}")
    if not_here:
        output.note(f"gpuscan: note: on this machine it cannot start: {not_here}")
    for name, helpers in by_kernel.items():
        output.line(f"rule {name} is carried out by the kernel: {', or '.join(helpers)}")
    if not n:
        output.note("gpuscan: note: without a rule nothing is watched; add a [[rule]]")
    for rule in config.rule[:-1]:
        if not (rule.cgroup or rule.unit or rule.command or rule.user or rule.exclude.model_fields_set):
            output.note(f"gpuscan: note: rule {rule.name} fits every process, so none after it ever does")
            break


def _why_not_here(config: Config) -> str | None:
    """Return why a configuration does not fit the nodes of this machine; it may be meant for another one."""
    from gpuscan.base.errors import GpuscanError
    from gpuscan.linux.system import HERE
    from gpuscan.service.nodes import check_nodes, tiered

    try:
        check_nodes(config, tiered(config, HERE.read_host().topology))
    except GpuscanError as error:
        return str(error)
    return None


def _explain(config: Config, pid: int, output: Output) -> None:
    from gpuscan.base.errors import InputError
    from gpuscan.linux.system import HERE
    from gpuscan.service.helpers.combining import helped
    from gpuscan.service.rules import verdict
    from gpuscan.service.selection import read_facts

    facts = read_facts(pid, HERE)
    if facts is None:
        raise InputError(
            f"there is no process {pid}, or it is a thread of the kernel's; give one of a program"
        )
    found = verdict(config.rule, facts)
    output.document(
        {
            "pid": pid,
            "command": facts.command,
            "user": facts.user,
            "cgroup": facts.cgroup,
            "unit": facts.unit or None,
            "rule": found.rule.name if found.rule else None,
            "policy": found.rule.policy if found.rule else None,
            "backend": found.rule.backend if found.rule else None,
            "why": found.why,
            "not": [{"rule": name, "why": why} for name, why in found.passed],
        }
    )
    output.line(f"process {pid}: command {facts.command}, user {facts.user}, cgroup {facts.cgroup}")
    for name, why in found.passed:
        output.line(f"  not rule {name}: {why}")
    if found.rule is None:
        output.line(f"  {found.why}")
    else:
        rule = found.rule
        by = "" if rule.is_own else f", carried out by the kernel ({', or '.join(helped(config)[rule.name])})"
        output.line(f"  rule {rule.name} (policy {rule.policy}{by}): {found.why}")


def _show(output: Output, name: str) -> None:
    from gpuscan.base.errors import InputError
    from gpuscan.service.install import shipped

    if name not in SHOWN:
        raise InputError(f"there is no file {name!r}; choose one of {', '.join(SHOWN)}")
    text = shipped(name)
    output.document({"name": name, "text": text})
    output.text(text)


def _install(output: Output, *, force: bool) -> None:
    from gpuscan.service.install import install

    written = install(force=force)
    output.document({"written": written})
    for path in written:
        output.line(f"installed {path}")
    output.line("now: edit the configuration; then systemctl daemon-reload; systemctl enable --now gpuscan")
