"""A service session on the simulated kernel, from its start to its end, and what it told."""

from __future__ import annotations

from dataclasses import replace

from gpuscan.service.load import config_of
from gpuscan.service.notify import Notifier
from gpuscan.service.session import ServiceSession

from .machine import Machine
from .service import Noted, Script, ScriptedInbox, script
from .system import SimulatedSystem

RULES = [{"name": "db", "command": "data*"}]


class Manager(Notifier):
    """A service manager that keeps what it was told, and when."""

    def __init__(self, machine, watchdog_s=None):
        super().__init__({})
        self.watchdog_s = watchdog_s
        self.told = []
        self._machine = machine

    def tell(self, **what):
        self.told.append((self._machine.world.now_ns, what))

    def said(self, name):
        return [what[name] for _, what in self.told if name in what]


class Run:
    """One session, from its start to its end."""

    def __init__(self, *orders, system_class=SimulatedSystem, n=1, end_ms=1_500, reload=None, **service):
        scenario, _ = script(4)
        self.machine = Machine(replace(scenario, events=()))
        self.pids = [self.machine.world.spawn(40, command="database").pid for _ in range(n)]
        self.system = system_class(self.machine)
        self.manager = Manager(self.machine, watchdog_s=3.0)
        self.documents, self.watched, self.noted = [], [], Noted()
        self.config = config_of(
            "x", {"service": {"monitor": "kpageflags", "cpu": "50%", **service}, "rule": RULES}
        )
        self.what = Script((), orders, end_ms)
        self.reload = reload or (lambda: self.config)

    def go(self):
        def open_inbox(stop):
            inbox = ScriptedInbox(self.machine, self.system, self.what, stop)
            inbox._answered = lambda document: self.documents.append(document)  # type: ignore[method-assign]
            return inbox

        with ServiceSession(
            self.config,
            self.reload,
            open_inbox,
            self.system,
            open_recorder=lambda: self.noted,
            notifier=self.manager,
        ) as session:
            self.session = session
            session.run(
                lambda: None,
                lambda _: self.watched.append([each.pid for each in session.pipeline.source.processes]),
            )
        return self
