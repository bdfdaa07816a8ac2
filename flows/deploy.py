"""A line on a Prefect server: work pools, deployments, schedules, triggers, automations. Done again, it changes nothing."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import EntrypointType
from prefect.events import DeploymentEventTrigger, EventTrigger, Posture
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.exceptions import ObjectAlreadyExists

from flows import agents, arrival, retrain, workspace
from otmf import layout

POOLS = {"cpu": "Everything but training and merging.", agents.POOL: "Fine-tuning, merging and head tuning."}
DATA_CHANGED = "otmf.data.changed"
HEARTBEAT, SILENCE = 30, timedelta(seconds=90)
_MODULE = {"entrypoint_type": EntrypointType.MODULE_PATH}
_HEARTBEAT = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT)}}
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed", agents.REFUSED)


def register(
    line: layout.Layout,
    *,
    sweep_seconds: int,
    retrain_cron: str | None,
    with_agents: bool = False,
    notify: str | None = None,
) -> list[str]:
    """Registers pools, deployments and automations of a line; returns the deployments' names.

    Args:
        line: the folder; its path is a parameter of every deployment, so that no event can name another.
        sweep_seconds: how often the inbox is looked at.
        retrain_cron: when to retrain what changed; None: only when an event says so.
        with_agents: whether heavy stages go to workers of the pool `gpu`, each with a clone of its own.
        notify: address of a webhook that is told of every run that failed or was refused; None for none.

    Raises:
        WorkspaceError: if agents are asked for and the line has not the remotes they need.
    """
    if with_agents:
        agents.require(line)
    name = workspace.params(line).line
    with get_client(sync_client=True) as client:
        for pool, description in POOLS.items():
            _pool(client, pool, description)
    root = {"root": str(line.root.resolve())}
    about = {"prefect.resource.id": arrival.resource(name)}
    submitted = DeploymentEventTrigger(
        name=f"{arrival.EVENT} {name}",
        expect={arrival.EVENT},
        match=about,
        parameters={"submission": "{{ event.payload.submission | default('', true) }}"},
    )
    changed = DeploymentEventTrigger(name=f"{DATA_CHANGED} {name}", expect={DATA_CHANGED}, match=about)
    own = {"env": {**_HEARTBEAT["env"], agents.ASKED: agents.POOL}} if with_agents else _HEARTBEAT
    deployments = [
        arrival.arrive.to_deployment(name=name, parameters=root, triggers=[submitted], job_variables=own, **_MODULE),
        arrival.sweep.to_deployment(name=name, parameters=root, interval=sweep_seconds, job_variables=own, **_MODULE),
        retrain.retrain.to_deployment(
            name=name, parameters=root, triggers=[changed], cron=retrain_cron, job_variables=own, **_MODULE
        ),
    ]
    ids = [deployment.apply(work_pool_name="cpu") for deployment in deployments]
    if with_agents:
        deployments.append(agents.stage.to_deployment(name=name, job_variables=_HEARTBEAT, **_MODULE))
        ids.append(deployments[-1].apply(work_pool_name=agents.POOL))
        _automate(_crash_the_silent(name, ids[-1]))
    if notify is not None:
        _automate(_notification(name, ids, notify))
    return [f"{deployment.flow_name}/{name}" for deployment in deployments]


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
