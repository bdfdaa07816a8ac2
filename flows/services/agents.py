"""Heavy stages on agents: Prefect workers of a work pool on other machines, each with its own clone and environment.

A stage travels to its agent as a commit in the git remote, and comes back as one: dvc.lock and what git holds of its results.
What it reads and writes goes through the DVC remote. The coordinator asks, waits, takes over without running anything, and
makes sure that nothing is left to run. (DVC's run cache alone does not do for it: outputs with `cache: false` are not pushed.)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from flows.dvc import commands
from flows.line import clones, remotes, workspace
from flows.programs import failures, process
from flows.programs.release import release
from flows.services import prefect_server, recovery, run_logs
from otmf import settings
from otmf.runtime import errors, layout

POOL = prefect_server.AGENTS
HEAVY = ("pretrained", "finetune", "merge-step", "head-tune")
ASKED = "OTMF_AGENTS"
HOME = "OTMF_LINE"
REFUSES = "OTMF_REFUSES"
TRIES = 3
EVERY, LATE = 1.0, 2.0
PAGE = 200
TOLD = ("OTMF_PARENT_RUN", "OTMF_COMMIT")  # all an agent takes over of its coordinator's environment
REFUSED = "Refused"
ATTEMPT = "refs/otmf/attempts/{}"
_COMMIT, _STAGE = re.compile(r"[0-9a-f]{40}"), re.compile(r"[a-z][a-z-]*(@[a-z0-9][a-z0-9_-]*)?")


def wanted(stage: str) -> bool:
    """Whether a stage is to run on an agent: OTMF_AGENTS is set, and the stage is a heavy one."""
    return bool(os.environ.get(ASKED)) and stage.partition("@")[0] in HEAVY


def require(line: layout.Layout) -> None:
    """Refuses a line that agents on other machines could not work on.

    Raises:
        WorkspaceError: if it lacks a git remote or a DVC remote.
    """
    if not remotes.has_remote(line) or not commands.has_remote(line.root):
        raise workspace.WorkspaceError(
            f"expected a git remote {remotes.REMOTE} and a default DVC remote, by which agents get at their work; received a line "
            "without; add them with `git remote add` and `dvc remote add --default`, and commit .dvc/config"
        )


def hand_over(
    clone: layout.Layout, stage: str, extra: dict[str, str], *, log: Callable[[str], None], force: bool
) -> commands.Outcome:
    """Has an agent run a stage of an attempt, and restores what came out of it; `force` as in `repro.stage`.

    Args:
        clone, stage, extra: the attempt, a stage of dvc.yaml, and what the stage is told.
        log: takes the agent's lines while it works.
        force: whether it is run in any case.

    Raises:
        ProcessError: with the agent's sentence, if the stage fails; or if no agent brought it to an end.
    """
    if not force and not commands.stale(clone.root, [stage]):
        return "unchanged"
    params = workspace.params(clone)
    commands.push(clone.root, _inputs(clone, params, stage))
    commit = remotes.offer(clone, ATTEMPT)
    asked = {
        "line_name": params.line,
        "commit": commit,
        "stage": stage,
        "release": release(),
        "told": {name: extra[name] for name in TOLD if name in extra},
        "force": force,
    }
    found, listener = _ask(asked, f"{commit} {stage}" + (f" {flow_run.id}" if force else ""), log)
    remotes.take_over(clone, _result(commit, stage), ("dvc.lock", "data/results/"))
    commands.pull(clone.root, [stage])
    left = commands.stale(clone.root, [stage])
    if left:
        raise process.ProcessError(
            f"expected {stage} to be up to date after its agent handed it over; received {', '.join(left)} as stale; see run {found.name}"
        )
    listener.listen()  # a run's last lines reach the server after its state does
    remotes.withdraw(clone, ATTEMPT.format(commit), _result(commit, stage))
    return "ran" if found.state.message == "ran" else "restored"


def _ask(asked: dict, key: str, log: Callable[[str], None]) -> tuple[FlowRun, _Listener]:
    """The run of a stage on an agent, ended well; asked for again where an agent died over it."""
    number, tries = 0, 0
    while tries < TRIES:
        number += 1
        begun = run_deployment(
            f"stage/{asked['line_name']}", parameters=asked, idempotency_key=f"{key} {number}",
            flow_run_name=asked["stage"].replace("@", " "), timeout=0,
        )  # fmt: skip
        if begun.state is not None and begun.state.is_final() and not begun.state.is_completed():
            continue  # it failed when the same was asked before; that was then
        tries += 1
        listener = _Listener(begun, log)
        found = listener.ended()
        if found.state.is_completed():
            return found, listener
        time.sleep(LATE)
        listener.listen()
        said = found.state.message or found.state.name
        if found.state.name == REFUSED:
            raise process.ProcessError(said, lasting=True)
        get_run_logger().warning(f"{asked['stage']}: agent {tries} of {TRIES}: {said}")
    raise process.ProcessError(
        f"expected an agent of pool {POOL} to run {asked['stage']}; received {said} in {TRIES} tries; see the log of `otmf worker` on the "
        "agents"
    )


@dataclass
class _Listener:
    """Passes on what a run says. The server keeps lines by time and gets them in batches: the latest are looked through again."""

    run: FlowRun
    log: Callable[[str], None]
    heard: set[UUID] = field(default_factory=set)

    def ended(self) -> FlowRun:
        """Listens until the run is over; a server that does not answer for a while is waited for."""
        with get_client(sync_client=True) as client:
            while True:
                self._listen(client)
                try:
                    found = client.read_flow_run(self.run.id)
                    if found.state is not None and found.state.is_final():
                        return found
                except httpx.TransportError:
                    pass
                except httpx.HTTPStatusError as error:
                    if error.response.status_code < 500:
                        raise
                time.sleep(EVERY)

    def listen(self) -> None:
        """Passes on what is new."""
        with get_client(sync_client=True) as client:
            self._listen(client)

    def _listen(self, client: SyncPrefectClient) -> None:
        """Lines are for people: that the server does not give them stops nothing."""
        start = max(0, len(self.heard) - PAGE)
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.run.id]))
        with contextlib.suppress(httpx.HTTPError):
            while page := client.read_logs(of_run, limit=PAGE, offset=start, sort=LogSort.TIMESTAMP_ASC):
                start += len(page)
                for line in page:
                    if line.id not in self.heard:
                        self.heard.add(line.id)
                        self.log(line.message)


@flow(name="stage", validate_parameters=False)
def stage(line_name: str, commit: str, stage: str, release: str, told: dict[str, str], force: bool = False) -> State:
    """Runs one stage on this agent's clone at a commit of the git remote; pushes its outputs and the record of its run.

    The agent's clone of the line is where OTMF_LINE says, its tracking store where MLFLOW_TRACKING_URI does. The run ends as
    `Refused` where trying again would not help.
    """
    try:
        return Completed(message=_run(line_name, commit, stage, release, told, force))
    except failures.EXPECTED as error:
        lasting = getattr(error, "lasting", isinstance(error, (ValueError, Mismatch)))
        return Failed(name=REFUSED if lasting else "Failed", message=errors.sentence(error))
    finally:
        run_logs.send()  # the coordinator listens until the run is over


class Mismatch(workspace.WorkspaceError):
    """An agent that cannot serve this coordinator. The message names both sides."""


def _run(line_name: str, commit: str, stage: str, wanted: str, told: dict[str, str], force: bool) -> str:
    line = _home(line_name, wanted)
    if not _COMMIT.fullmatch(str(commit)) or not _STAGE.fullmatch(str(stage)):
        raise Mismatch(
            f"expected a commit and a stage; received {str(commit)[:60]!r} and {str(stage)[:60]!r}; ask with otmf"
        )
    name = f"agent-{commit[:12]}-{stage.replace('@', '-')}"
    _tidy(line)
    with workspace.locked(line, patience=3600, name=name):
        remotes.fetch(line, ATTEMPT.format(commit))
        clone = clones.begin(line, name, commit=commit)
        commands.pull(clone.root, _inputs(clone, workspace.params(clone), stage))
        extra = {key: str(told[key]) for key in TOLD if key in told}
        outcome = commands.stage(clone.root, stage, log=run_logs.lines(), extra=extra, force=bool(force), pull=True)
        commands.push(clone.root, [stage], runs=True)
        remotes.offer(clone, _result(commit, stage))
        clones.drop(line, name)
    return outcome


def _tidy(line: layout.Layout) -> None:
    """Removes the clones of runs that died on this agent."""
    for folder in (line.private / "attempts").glob("agent-*"):
        with recovery.free(line, folder.name) as dead:
            if dead:
                clones.drop(line, folder.name)


def _result(commit: str, stage: str) -> str:
    """Where in the git remote a stage's lock and results lie, of the attempt at a commit."""
    return f"refs/otmf/results/{commit}/{stage.replace('@', '/')}"


def refusing() -> dict[str, str]:
    """The environment of stages on a coordinator: it does not compute what agents are for."""
    return {REFUSES: ",".join(HEAVY)} if os.environ.get(ASKED) else {}


def _home(line_name: str, wanted: str) -> layout.Layout:
    if not os.environ.get(HOME):
        raise Mismatch(
            f"expected the folder of this agent's clone in {HOME}; received none; set it where the worker is started"
        )
    line = workspace.open_line(Path(os.environ[HOME]))
    if wanted != release():
        raise Mismatch(
            f"expected an agent with the coordinator's code, {wanted}; received {release()} here; install the same version on both"
        )
    found = workspace.params(line).line
    if found != line_name:
        raise Mismatch(f"expected a clone of line {line_name}; received one of {found} in {line.root}; set {HOME}")
    return line


def _inputs(clone: layout.Layout, params: settings.Params, stage: str) -> list[str]:
    _, _, key = stage.partition("@")
    step = params.steps.get(key)
    return commands.inputs(clone.root, stage, step.task if step else key, step.previous if step else "")
