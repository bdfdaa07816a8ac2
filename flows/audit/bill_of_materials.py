"""A version as a CycloneDX bill of materials: the model, its data sets and experts, the packages that made it.

The library writes everything but the model card, which it does not know; that is added to its JSON, and all of it is validated
against CycloneDX's own schema.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from flows.audit.document import Audit, Data, Task


class BomError(ValueError):
    """A bill of materials that CycloneDX's schema does not admit."""


def bom(found: Audit) -> str:
    """The bill of materials as JSON of CycloneDX 1.6; the same version gives the same bytes.

    Raises:
        BomError: if CycloneDX's schema does not admit it.
    """
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=found.line,
        version=f"v{found.version}",
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=found.sha256)],
        description=f"{len(found.tasks)} tasks merged into one encoder ({found.encoder}), step by step",
        properties=[Property(name="otmf:commit", value=found.commit), Property(name="otmf:serves", value=found.serves)],
    )
    made = Bom(serial_number=uuid5(NAMESPACE_URL, f"{found.sha256}/{found.commit}"))
    made.metadata.component = model
    made.metadata.timestamp = found.finished
    data = [_data("base", found.base, "", found.base_licence, ""), *(_of_task(task) for task in found.tasks)]
    experts = [_expert(found, task) for task in found.tasks]
    packages = [
        Component(type=ComponentType.LIBRARY, name=name, version=version, purl=PackageURL("pypi", name=name, version=version), bom_ref=f"package-{name}")
        for name, version in found.packages.items()
    ]  # fmt: skip
    for component in (*data, *experts, *packages):
        made.components.add(component)
    made.register_dependency(model, [data[0], *experts, *packages])
    for task_data, expert in zip(data[1:], experts, strict=True):
        made.register_dependency(expert, [task_data, data[0]])
    document = json.loads(JsonV1Dot6(made).output_as_string())
    document["metadata"]["component"]["modelCard"] = _card(found)
    text = json.dumps(document, indent=1) + "\n"
    broken = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if broken is not None:
        raise BomError(
            f"expected a bill of materials that CycloneDX 1.6 admits; received one that breaks it ({broken}); report it"
        )
    return text


def _of_task(task: Task) -> Component:
    return _data(task.name, task.data, task.description or task.title, task.licence, task.owner)


def _data(name: str, data: Data, description: str, licence: str, owner: str) -> Component:
    properties = [Property(name=f"otmf:images:{part}", value=str(count)) for part, count in data.images.items()]
    return Component(
        type=ComponentType.DATA,
        name=f"data of {name}",
        bom_ref=f"data-{name}",
        description=description or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=data.sha256)],
        licenses=[DisjunctiveLicense(name=licence)] if licence else [],
        supplier=OrganizationalEntity(name=owner) if owner else None,
        properties=[
            *properties,
            Property(name="otmf:path", value=data.path),
            Property(name="otmf:dvc:md5", value=data.md5 or ""),
        ],
    )


def _expert(found: Audit, task: Task) -> Component:
    output = found.stages[f"finetune@{task.name}"].outputs[f"data/models/finetuned/{task.name}"]
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=f"expert on {task.name}",
        bom_ref=f"expert-{task.name}",
        description=task.origin,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=output.sha256)],
    )


def _card(found: Audit) -> dict[str, Any]:
    last = found.steps[-1]
    metrics = [
        {"type": "accuracy", "value": f"{task.accuracy[found.step]:.4f}", "slice": task.name} for task in found.tasks
    ]
    return {
        "bom-ref": "model-card",
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": f"{found.reads[:-1]} classification",
            "architectureFamily": f"encoder of {found.reads}",
            "modelArchitecture": found.encoder,
            "datasets": [{"ref": f"data-{task.name}"} for task in found.tasks],
            "inputs": [{"format": found.reads[:-1]}],
            "outputs": [{"format": "class and probability"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                *metrics,
                {"type": "average accuracy", "value": f"{last.acc:.4f}", "slice": "all tasks"},
            ]
        },
        "considerations": {
            "technicalLimitations": [f"Deviation: {said}" for said in found.deviations] or ["None recorded."]
        },
    }
