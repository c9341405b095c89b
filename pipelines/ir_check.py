"""Checks a compiled pipeline as KFP's driver does when a task starts, so that a mismatch is found before an upload.

KFP's compiler and its local runner accept a task whose input gets a value of another type; the driver on a cluster ends
the run there (``input parameter "item" type mismatch: expect STRUCT, got string``, KFP 2.17.0,
backend/src/v2/driver). Every value that reaches a task is followed from its source to its consumer:

* a parameter comes from an input of the surrounding component, an output of a task, a loop's item or a constant, and has
  exactly the type that the consumer declares;
* an artifact has the consumer's schema (or the consumer takes any), and lists of artifacts meet inputs that take lists;
* inputs that are not optional are bound, and names of tasks, inputs, outputs and executors exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mistere.common.errors import MistereError
from mistere.common.parsing.documents import load_json

Spec = Mapping[str, Any]

_ANY_ARTIFACT = "system.Artifact"
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "STRING": str,
    "STRUCT": dict,
    "LIST": list,
    "BOOLEAN": bool,
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": int,
}
_CONDITION_INPUT = re.compile(r"inputs\.(parameter_values|artifacts)\['([^']+)'\]")


def check_pipeline(spec: Spec) -> None:
    """Raise if KFP's driver would refuse a task of the pipeline.

    Args:
        spec: the first document of a compiled pipeline.

    Raises:
        MistereError: the first mismatch, and how many more there are.
    """
    mismatches = list(find_mismatches(spec))
    if mismatches:
        more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
        raise MistereError(
            f"Kubeflow Pipelines would refuse this pipeline at run time: {mismatches[0]}{more}. Correct the types that the"
            " components declare (components/*/component.py) or how the definition in pipelines/ connects them."
        )


def find_mismatches(spec: Spec) -> Iterator[str]:
    """Yield a phrase for everything in a compiled pipeline that KFP's driver refuses.

    Args:
        spec: the first document of a compiled pipeline.
    """
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    components = spec.get("components", {})
    for name, parameter in _inputs(spec["root"], "parameters").items():
        if "defaultValue" in parameter and not _is_constant_of(parameter["defaultValue"], parameter["parameterType"]):
            yield f"the pipeline's default for '{name}' is not of its type {parameter['parameterType']}"
    for name, component in [("the pipeline", spec["root"]), *components.items()]:
        if "dag" in component:
            yield from _Dag(name, component, components, spec["root"]).mismatches()
        elif component.get("executorLabel") not in executors:
            yield f"component '{name}' has no executor"


class _Dag:
    """A component that consists of tasks."""

    def __init__(self, name: str, component: Spec, components: Mapping[str, Spec], root: Spec) -> None:
        self.name = name
        self.component = component
        self.tasks: Mapping[str, Spec] = component["dag"].get("tasks", {})
        self.components = components
        self.root = root

    def mismatches(self) -> Iterator[str]:
        for name, task in self.tasks.items():
            if task["componentRef"]["name"] not in self.components:
                yield f"task '{name}' of {self.name} refers to the missing component '{task['componentRef']['name']}'"
                continue
            yield from (f"task '{name}' of {self.name}: {mismatch}" for mismatch in self._task(task))
        yield from (f"{self.name}: {mismatch}" for mismatch in self._outputs())

    def _task(self, task: Spec) -> Iterator[str]:
        consumer = self.components[task["componentRef"]["name"]]
        for upstream in task.get("dependentTasks", []):
            if upstream not in self.tasks:
                yield f"it waits for the missing task '{upstream}'"
        yield from self._bindings(task, consumer)
        for kind, compare in (("parameters", self._parameter), ("artifacts", self._artifact)):
            declared = _inputs(consumer, kind)
            for name, source in task.get("inputs", {}).get(kind, {}).items():
                if name not in declared:
                    yield f"its component has no input '{name}'"
                else:
                    yield from (f"input '{name}' {mismatch}" for mismatch in compare(task, source, declared[name]))
        condition = task.get("triggerPolicy", {}).get("condition", "")
        for kind, name in _CONDITION_INPUT.findall(condition):
            if name not in task.get("inputs", {}).get("parameters" if kind == "parameter_values" else kind, {}):
                yield f"its condition refers to '{name}', which is not among its inputs"

    def _bindings(self, task: Spec, consumer: Spec) -> Iterator[str]:
        """Inputs that nothing binds, and a loop that goes over something that is not a list."""
        bound = {name for kind in ("parameters", "artifacts") for name in task.get("inputs", {}).get(kind, {})}
        iterator = task.get("parameterIterator") or task.get("artifactIterator") or {}
        if iterator:
            bound.add(iterator["itemInput"])
            over = iterator["items"].get("inputParameter") or iterator["items"].get("inputArtifact")
            listed = _inputs(consumer, "parameters").get(over, {}).get("parameterType") == "LIST" or _inputs(
                consumer, "artifacts"
            ).get(over, {}).get("isArtifactList", False)
            if over is not None and not (over in bound and listed):
                yield f"it loops over '{over}', which is not a list among its inputs"
            yield from _loop_item(iterator, consumer)
        for kind in ("parameters", "artifacts"):
            for name, declared in _inputs(consumer, kind).items():
                if name not in bound and not declared.get("isOptional") and "defaultValue" not in declared:
                    yield f"its required input '{name}' is not bound"

    def _parameter(self, task: Spec, source: Spec, declared: Spec) -> Iterator[str]:
        expected = declared["parameterType"]
        if "runtimeValue" in source:
            constant = source["runtimeValue"].get("constant")
            if not _is_constant_of(constant, expected):
                yield f"is declared {expected} and gets the constant {constant!r}"
        elif "taskFinalStatus" in source:
            if expected != "TASK_FINAL_STATUS":
                yield f"is declared {expected} and gets a task's final status"
        else:
            origin, output = self._origin(source, "Parameter")
            yield from self._order(task, source)
            if output is None:
                yield f"comes from {origin}, which does not exist"
            elif output["parameterType"] != expected:
                yield f"is declared {expected} and gets {output['parameterType']} from {origin}"

    def _artifact(self, task: Spec, source: Spec, declared: Spec) -> Iterator[str]:
        origin, output = self._origin(source, "Artifact")
        yield from self._order(task, source)
        if output is None:
            yield f"comes from {origin}, which does not exist"
        else:
            yield from _artifact_mismatch(output, declared, origin)

    def _origin(self, source: Spec, kind: str) -> tuple[str, Spec | None]:
        """What an input is bound to, in words, and its definition; None where there is none.

        Args:
            source: the binding of the input.
            kind: ``Parameter`` or ``Artifact``, as the names of the binding's fields have it.
        """
        group = f"{kind.lower()}s"
        if f"componentInput{kind}" in source:
            name = source[f"componentInput{kind}"]
            return f"input '{name}'", _inputs(self.component, group).get(name)
        if f"taskOutput{kind}" in source:
            produced = source[f"taskOutput{kind}"]
            task, name = produced["producerTask"], produced[f"output{kind}Key"]
            return f"output '{name}' of task '{task}'", self._output(task, group, name)
        return "a source of an unknown kind", None

    def _order(self, task: Spec, source: Spec) -> Iterator[str]:
        """A task waits for the task whose output it takes."""
        produced = source.get("taskOutputParameter") or source.get("taskOutputArtifact") or {}
        producer = produced.get("producerTask")
        if producer and producer not in task.get("dependentTasks", []):
            yield f"comes from task '{producer}', for which the task does not wait"

    def _output(self, task: str, kind: str, name: str) -> Spec | None:
        """The definition of a task's output; None where there is no such task or output."""
        if task not in self.tasks:
            return None
        producer = self.components.get(self.tasks[task]["componentRef"]["name"], {})
        definition: Spec | None = producer.get("outputDefinitions", {}).get(kind, {}).get(name)
        return definition

    def _outputs(self) -> Iterator[str]:
        """What the component hands to the outside: each declared output comes from a task's output of its type."""
        outputs = self.component["dag"].get("outputs", {})
        looped = any(
            ("parameterIterator" in task or "artifactIterator" in task)
            and self.components.get(task["componentRef"]["name"]) is self.component
            for other in (self.root, *self.components.values())
            for task in other.get("dag", {}).get("tasks", {}).values()
        )
        for kind in ("parameters", "artifacts"):
            for name, declared in self.component.get("outputDefinitions", {}).get(kind, {}).items():
                selectors = _selectors(outputs.get(kind, {}).get(name, {}))
                if not selectors:
                    yield f"its output '{name}' comes from no task"
                for selector in selectors:
                    key = selector.get("outputParameterKey") or selector["outputArtifactKey"]
                    origin = f"output '{key}' of task '{selector['producerSubtask']}'"
                    found = self._output(selector["producerSubtask"], kind, key)
                    if found is None:
                        yield f"its output '{name}' comes from {origin}, which does not exist"
                    elif kind == "artifacts":
                        element = {**declared, "isArtifactList": False} if looped else declared
                        for mismatch in _artifact_mismatch(found, element, origin):
                            yield f"its output '{name}' {mismatch}"
                    elif not looped and found["parameterType"] != declared["parameterType"]:
                        yield (
                            f"its output '{name}' is declared {declared['parameterType']} and gets"
                            f" {found['parameterType']} from {origin}"
                        )


def _inputs(component: Spec, kind: str) -> Mapping[str, Spec]:
    definitions: Mapping[str, Spec] = component.get("inputDefinitions", {}).get(kind, {})
    return definitions


def _loop_item(iterator: Spec, consumer: Spec) -> Iterator[str]:
    """The input for a loop's item exists, and the elements of a constant list have its type."""
    name = iterator["itemInput"]
    kind = "parameters" if "inputParameter" in iterator["items"] or "raw" in iterator["items"] else "artifacts"
    declared = _inputs(consumer, kind).get(name)
    if declared is None:
        yield f"its component has no input '{name}' for the item of its loop"
    elif "raw" in iterator["items"]:
        for element in load_json(iterator["items"]["raw"]):
            if not _is_constant_of(element, declared["parameterType"]):
                yield f"the item of its loop is declared {declared['parameterType']} and gets the constant {element!r}"


def _selectors(output: Spec) -> list[Spec]:
    """The tasks' outputs that an output of a component may come from."""
    if "valueFromParameter" in output:
        return [output["valueFromParameter"]]
    one_of: Spec = output.get("valueFromOneof", {})
    return [*output.get("artifactSelectors", []), *one_of.get("parameterSelectors", [])]


def _artifact_mismatch(output: Spec, declared: Spec, origin: str) -> Iterator[str]:
    title, expected = output["artifactType"].get("schemaTitle"), declared["artifactType"].get("schemaTitle")
    if title != expected and expected != _ANY_ARTIFACT:
        yield f"is declared {expected} and gets {title} from {origin}"
    if bool(output.get("isArtifactList")) != bool(declared.get("isArtifactList")):
        given_form, declared_form = (
            ("a list", "one artifact") if output.get("isArtifactList") else ("one artifact", "a list")
        )
        yield f"takes {declared_form} and gets {given_form} from {origin}"


def _is_constant_of(value: object, parameter_type: str) -> bool:
    expected = _TYPES.get(parameter_type)
    if expected is None or (isinstance(value, bool) and parameter_type != "BOOLEAN"):
        return False
    if parameter_type == "NUMBER_INTEGER" and isinstance(value, float):  # JSON has one kind of number
        return value.is_integer()
    return isinstance(value, expected)
