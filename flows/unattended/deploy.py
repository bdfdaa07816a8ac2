"""A line on a Prefect server: work pools, deployments with their schedules (sweeps, retraining), automations. Done again, it changes nothing."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.exceptions import ObjectAlreadyExists
from ruamel.yaml import YAML

from flows.line import workspace
from flows.programs import process
from flows.services import agents
from flows.versions import registry
from otmf.runtime import layout

POOLS = {"cpu": "Everything but training and merging.", agents.POOL: "Fine-tuning, merging and head tuning."}
FILE = "prefect.yaml"
FLOWS = ("arrive", "sweep", "retrain", "stage")
SILENCE = timedelta(seconds=90)
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", agents.REFUSED)


def register(
    line: layout.Layout,
    *,
    sweep_seconds: int | None,
    retrain_cron: str | None,
    with_agents: bool = False,
    notify: str | None = None,
) -> list[str]:
    """Registers pools, the deployments of the line's prefect.yaml, and automations; returns the deployments' names.

    Args:
        line: the folder; its path is a parameter of its deployments, so that no event can name another.
        sweep_seconds: how often the inbox is looked at; None: as prefect.yaml says.
        retrain_cron: when to retrain what changed; None: as prefect.yaml says.
        with_agents: whether heavy stages go to workers of the pool `gpu`, each with a clone of its own.
        notify: address of a webhook that is told of every run that failed or was refused; None for none.

    Raises:
        WorkspaceError: if agents are asked for and the line has not the remotes they need.
        ProcessError: if prefect.yaml does not hold up.
    """
    if with_agents:
        agents.require(line)
    if retrain_cron is not None:
        _check_cron(retrain_cron)
    if notify is not None and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", notify):
        raise workspace.WorkspaceError(
            f"expected the address of a webhook, http://... or https://...; received {notify[:80]!r}; correct it"
        )
    name = workspace.params(line).line
    registry.follow_later(line)  # another tracking store than before may know of no version
    with get_client(sync_client=True) as client:
        for pool, description in POOLS.items():
            _pool(client, pool, description)
        values = {
            "OTMF_NAME": name,
            "OTMF_ROOT": str(line.root.resolve()),
            "OTMF_AGENTS": agents.POOL if with_agents else "",
        }
        _deploy(line, _schedules(sweep_seconds, retrain_cron), values)
        names = [f"{flow}/{name}" for flow in FLOWS]
        ids = [client.read_deployment_by_name(found).id for found in names]
    _automate(_crash_the_silent(name, ids[-1]))
    if notify is not None:
        _automate(_notification(name, ids, notify))
    return names


def _check_cron(given: str) -> None:
    try:
        CronSchedule(cron=given)
    except ValueError as error:
        raise workspace.WorkspaceError(
            f"expected when to retrain as a cron expression, such as '0 3 * * *'; received {given[:80]!r}; correct it"
        ) from error


def _schedules(sweep_seconds: int | None, retrain_cron: str | None) -> dict[str, list[dict[str, object]]]:
    """Entry point -> its schedules, where they are not those of prefect.yaml."""
    given: dict[str, list[dict[str, object]]] = {}
    if sweep_seconds is not None:
        given["flows.unattended.arrival.sweep"] = [{"interval": sweep_seconds}]
    if retrain_cron is not None:
        given["flows.changes.retrain.retrain"] = [{"cron": retrain_cron, "active": True}]
    return given


def _deploy(line: layout.Layout, schedules: dict[str, list[dict[str, object]]], values: dict[str, str]) -> None:
    """Calls `prefect deploy --all` with the line's own prefect.yaml, or the template's where it has none."""
    own, filled = line.root / FILE, line.private / FILE
    yaml = YAML(typ="safe")
    document = yaml.load((own if own.is_file() else workspace.template() / FILE).read_text(encoding="utf-8"))
    for found in document["deployments"]:
        if found["entrypoint"] in schedules:
            found["schedules"] = schedules[found["entrypoint"]]
    filled.parent.mkdir(exist_ok=True)
    with filled.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(filled)]
    process.run(command, folder=line.root, extra=values)


def _pool(client: SyncPrefectClient, name: str, description: str) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
    except ObjectAlreadyExists:
        return


def _crash_the_silent(name: str, deployment: UUID) -> Automation:
    """A run on an agent that sends no heartbeat any more has crashed, so that its coordinator asks another."""
    beat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        posture=Posture.Proactive,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
        for_each={"prefect.resource.id"},
        after={beat},
        expect={beat, *(f"prefect.flow-run.{state}" for state in _ENDED)},
        threshold=1,
        within=SILENCE,
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message=f"no word from its agent in {SILENCE.seconds} s")
    return Automation(name=f"otmf silent agents {name}", trigger=trigger, actions=[action])


def _notification(name: str, deployments: list[UUID], address: str) -> Automation:
    """A call of a webhook for each run that failed, crashed or was refused."""
    block = CustomWebhookNotificationBlock(
        name=f"otmf {name}", url=address, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    document = block.save(f"otmf-{name.replace('_', '-')}", overwrite=True)
    trigger = EventTrigger(
        posture=Posture.Reactive,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": [f"prefect.deployment.{one}" for one in deployments]},
        expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", agents.REFUSED)},
        threshold=1,
        within=timedelta(0),
    )
    action = SendNotification(
        block_document_id=document,
        subject=f"Line {name}: {{{{ flow.name }}}} {{{{ flow_run.state.name }}}}",
        body="{{ flow_run.state.message }}",
    )
    return Automation(name=f"otmf notifications {name}", trigger=trigger, actions=[action])


def _automate(automation: Automation) -> None:
    """Creates an automation, or brings the one of that name in line with it."""
    try:
        found = Automation.read(name=automation.name)
    except ValueError:
        automation.create()
        return
    automation.id = found.id
    automation.update()
