"""A line on a Prefect server: work pools, deployments, schedules and the triggers of events. Done again, it changes nothing."""

from __future__ import annotations

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import EntrypointType
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists

from flows import arrival, retrain, workspace
from otmf import layout

POOLS = {"cpu": "Everything but training and merging.", "gpu": "Fine-tuning, merging and head tuning."}
DATA_CHANGED = "otmf.data.changed"


def register(line: layout.Layout, *, sweep_seconds: int, retrain_cron: str | None) -> list[str]:
    """Registers pools and deployments of a line; returns the deployments' names.

    Args:
        line: the folder; its path is a parameter of every deployment, so that no event can name another.
        sweep_seconds: how often the inbox is looked at.
        retrain_cron: when to retrain what changed; None: only when an event says so.
    """
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
    deployments = [
        arrival.arrive.to_deployment(name=name, parameters=root, triggers=[submitted], **_MODULE),
        arrival.sweep.to_deployment(name=name, parameters=root, interval=sweep_seconds, concurrency_limit=1, **_MODULE),
        retrain.retrain.to_deployment(
            name=name, parameters=root, triggers=[changed], cron=retrain_cron, concurrency_limit=1, **_MODULE
        ),
    ]
    for deployment in deployments:
        deployment.apply(work_pool_name="cpu")
    return [f"{deployment.flow_name}/{name}" for deployment in deployments]


_MODULE = {"entrypoint_type": EntrypointType.MODULE_PATH}


def _pool(client: SyncPrefectClient, name: str, description: str) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
    except ObjectAlreadyExists:
        return
