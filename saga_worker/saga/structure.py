"""What a stored saga relies on of its definition: the structure, its fingerprint, and what a change of it would break.

Takes a definition; of its functions only what they are annotated with counts, of its numbers none. The structure is
plain JSON, the same in every process and on every Python; `breaks` compares two of them, as they were stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_json

from saga_worker.saga.children import EachStep, SubsagaStep
from saga_worker.saga.definition import Saga
from saga_worker.saga.forms import Parallel, Pivot, Repeat, When
from saga_worker.saga.messages import Command, rejection_models, reply_models, wire_types
from saga_worker.saga.own_work import ActivityStep, AnyStep, LocalStep
from saga_worker.saga.placed import PlacedStep
from saga_worker.saga.steps import CommandOf, EmitStep, SavepointStep, SleepStep, Step, WaitStep
from saga_worker.saga.upcast import UPCASTERS

FINGERPRINT_DIGITS: Final = 12
_KEPT: Final = ("type", "enum", "const", "format", "additionalProperties", "prefixItems", "items", "anyOf", "oneOf")

Structure = Mapping[str, Any]


def structure(saga: Saga[Any]) -> Structure:
    """Name, version, steps with their kinds and contracts, order, events, and the shape of the state."""
    return {
        "name": saga.name,
        "version": saga.version,
        "key": saga.key_kind.value,
        "steps": {step.id: _step(step) for step in saga.steps.values()},
        "flow": [_node(node) for node in saga.flow_root.steps],
        "starts": {wire_type: _shape(start.model) for wire_type, start in sorted(saga.starts.items())},
        "handlers": {wire_type: _shape(on.model) for wire_type, on in sorted(saga.handlers.items())},
        "arms": {
            f"{arm.step_id}: {wire_type}": _shape(arm.model)
            for wire_type, arms in sorted(saga.arms.items())
            for arm in arms
        },
        "state": _shape(saga.state_model, on_wire=False),
    }


def fingerprint(of: Structure) -> str:
    """A short hash of a structure."""
    return sha256(to_json(_sorted(of))).hexdigest()[:FINGERPRINT_DIGITS]


def breaks(stored: Structure, now: Structure) -> tuple[str, ...]:
    """What of this change sagas that began before may run into, one phrase each; empty: it does them no harm."""
    return tuple(_breaks(stored, now))


# -- reading a definition ---------------------------------------------------------------------------------------------


def _step(step: AnyStep) -> dict[str, Any]:
    match step:
        case CommandOf():
            found = {"kind": "command", "sends": _contract(step.command_model), "undo": None}
            if step.undo_model is not None:
                found["undo"] = _contract(step.undo_model)
            return found
        case PlacedStep():
            shapes = {
                "takes": _shape(step.input_model, on_wire=False),
                "gives": _shape(step.result_model, on_wire=False),
            }
            return {"kind": "reusable activity", "undo": step.has_undo or None, **shapes}
        case ActivityStep():
            return {
                "kind": "activity", "undo": step.has_undo or None, "gives": _shape(step.result_model, on_wire=False),
            }  # fmt: skip
        case LocalStep():
            return {"kind": "local step", "undo": step.has_undo or None}
        case SubsagaStep():
            return {"kind": "sub-saga", "of": step.child.name, "undo": step.has_undo or None}
        case EachStep():
            return {"kind": "for_each", "of": step.child.name, "undo": step.has_undo or None}
        case EmitStep():
            return {"kind": "emit"}
        case WaitStep():
            return {"kind": "wait", "reminds": step.reminder is not None}
        case SleepStep():
            return {"kind": "sleep"}
        case SavepointStep():
            return {"kind": "savepoint"}


def _contract(command: type[Command[Any, Any]]) -> dict[str, Any]:
    return {
        "types": list(wire_types(command)),
        "replies": {wire_type: _shape(model) for wire_type, model in sorted(reply_models(command).items())},
        "rejections": {wire_type: _shape(model) for wire_type, model in sorted(rejection_models(command).items())},
    }


def _node(node: Step[Any]) -> Any:
    """Steps by id, forms as objects with what stands in them."""
    match node:
        case When():
            return {"when": _nodes(node.then), "otherwise": _nodes(node.otherwise)}
        case Parallel():
            return {"parallel": [_nodes(branch) for branch in node.branches], "wanted": node.wanted}
        case Repeat():
            return {"repeat": _nodes(node.steps), "name": node.name}
        case Pivot():
            return {"pivot": _node(node.step)}
        case _:
            return node.id  # type: ignore[attr-defined]  # all others are steps


def _nodes(steps: Sequence[Step[Any]]) -> list[Any]:
    return [_node(step) for step in steps]


def _shape(model: type[BaseModel], *, on_wire: bool = True) -> dict[str, Any]:
    """The fields of a model: what each holds, and whether it has to be there. Names of classes do not count."""
    try:
        schema = model.model_json_schema(by_alias=on_wire)
    except PydanticInvalidForJsonSchema:
        return {"fields": {}}  # a type of the author's own that says nothing of itself
    read = _Sketch(schema.get("$defs", {}))
    required = set(schema.get("required", ()))
    fields = {
        name: {"is": read.sketch(part), "required": name in required}
        for name, part in schema.get("properties", {}).items()
    }
    return {"fields": fields, "upcast": True} if model in UPCASTERS else {"fields": fields}


class _Sketch:
    """A part of a JSON schema without names, texts and bounds; models inside are written out."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._inside: list[str] = []

    def sketch(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self.sketch(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return self._resolved(str(part["$ref"]).rpartition("/")[2])
        if "allOf" in part and len(part["allOf"]) == 1:
            return self.sketch(part["allOf"][0])
        found = {name: self.sketch(part[name]) for name in _KEPT if name in part}
        if "properties" in part:
            required = set(part.get("required", ()))
            found["fields"] = {
                name: {"is": self.sketch(each), "required": name in required}
                for name, each in part["properties"].items()
            }
        return found

    def _resolved(self, name: str) -> Any:
        if name in self._inside:
            return {"again": len(self._inside) - self._inside.index(name)}  # so many models further out
        self._inside.append(name)
        try:
            return self.sketch(self._definitions.get(name, {}))
        finally:
            self._inside.pop()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list | tuple) else value


# -- comparing two ----------------------------------------------------------------------------------------------------


def _breaks(stored: Structure, now: Structure) -> Iterator[str]:
    before, after = stored["steps"], now["steps"]
    for step_id in before:
        if step_id not in after:
            yield f"step {step_id} is gone"
        else:
            yield from _step_breaks(step_id, before[step_id], after[step_id])
    added = [step_id for step_id in after if step_id not in before]
    if added:
        yield f"{'step' if len(added) == 1 else 'steps'} {', '.join(added)} came in"
    elif before.keys() == after.keys() and _sorted(stored["flow"]) != _sorted(now["flow"]):
        yield "the order of the steps is another"
    yield from (
        f"nothing ends wait {arm.replace(': ', ' by ')} any more" for arm in stored["arms"] if arm not in now["arms"]
    )
    for kind in ("starts", "handlers", "arms"):
        for name, shape in stored[kind].items():
            if name in now[kind]:
                yield from _shape_breaks(f"the event {name.rpartition(': ')[2]}", shape, now[kind][name])
    yield from _shape_breaks("the state", stored["state"], now["state"])


def _step_breaks(step_id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if before["kind"] != after["kind"]:
        yield f"step {step_id} was a {before['kind']} and is a {after['kind']}"
        return
    if before.get("undo") and not after.get("undo"):
        yield f"step {step_id} has no undo any more"
    if before.get("of") != after.get("of"):
        yield f"step {step_id} starts another saga"
    for part, what in (("takes", "input"), ("gives", "result")):
        if part in before and part in after:
            yield from _shape_breaks(f"the {what} of step {step_id}", before[part], after[part])
    for part, what in (("sends", "command"), ("undo", "undo")):
        one, other = before.get(part), after.get(part)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _contract_breaks(f"the {what} of step {step_id}", one, other)


def _contract_breaks(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if before["types"][0] not in after["types"]:
        yield f"{what} is called otherwise"
    for part in ("replies", "rejections"):
        for wire_type, shape in before[part].items():
            if wire_type not in after[part]:
                yield f"{what} is not answered by {wire_type} any more"
            else:
                yield from _shape_breaks(f"the answer {wire_type}", shape, after[part][wire_type])


def _shape_breaks(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What was stored in the old shape and does not fit the new one; an upcaster is trusted to know."""
    if after.get("upcast"):
        return
    for name, field in after["fields"].items():
        old = before["fields"].get(name)
        if old is None and field["required"]:
            yield f"{what} has a new field {name} without a default"
        elif old is not None and _sorted(old["is"]) != _sorted(field["is"]):
            yield f"field {name} of {what} holds something else"
