"""How a WIT interface becomes calls on `Nn`: a Face is a table, and this module does all conversion between wasm and
plain values.

A handle a guest passes arrives in an operation as the object it stands for; an object an operation returns leaves as a
handle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wasmtime import StoreContext
from wasmtime.component import LinkerInstance, Record, ResourceAny, ResourceHost, ResourceType, Variant

from promptd.errors import PromptdError, RuntimeFailure
from promptd.tensor import Tensor
from promptd.wasm.control import Control, Stopped
from promptd.wasm.fixes import Case
from promptd.wasm.held import ChatReply, ChatSession, Execution, Failure, LoadedGraph, Prompt
from promptd.wasm.nn import Nn
from promptd.wasm.staged import StagedExecution

_log = logging.getLogger("promptd.guest")

RESOURCE_TYPES: dict[type[Any], int] = {
    Tensor: 1,
    Failure: 2,
    LoadedGraph: 3,
    Execution: 4,
    Prompt: 5,
    ChatSession: 6,
    ChatReply: 7,
    StagedExecution: 8,
}
"""The host's number for each resource type; the same in all versions of an interface."""


@dataclass(frozen=True)
class Face:
    """One WIT interface: its resources and functions by WIT name, and how it spells an error of an operation."""

    functions: Mapping[str, Callable[..., Any]]
    """Called with the session's `Nn` and the guest's arguments."""
    resources: Mapping[str, type[Any]] = field(default_factory=dict)
    error: Callable[[PromptdError], Any] | None = None
    """What goes into the `err` of a result; None where no function returns one."""

    def declare(self, instance: LinkerInstance, functions: Mapping[str, bool]) -> None:
        """Define the resources and imported functions in `instance` so that a guest links; calling one traps."""
        for name, kind in self.resources.items():
            instance.add_resource(name, ResourceType.host(RESOURCE_TYPES[kind]), lambda _store, _handle: None)
        for name in functions:
            instance.add_func(name, _unavailable)


def bind(instance: LinkerInstance, face: Face, functions: Mapping[str, bool], nn: Nn, control: Control) -> None:
    """Define in `instance` the face's resources and those of its functions that the guest imports.

    `functions` maps each imported name to whether its type is a result.
    """

    def dropped(_store: StoreContext, handle: int) -> None:
        nn.drop(handle)

    for name, kind in face.resources.items():
        instance.add_resource(name, ResourceType.host(RESOURCE_TYPES[kind]), dropped)
    for name, has_result in functions.items():
        instance.add_func(
            name, _host_function(name, face.functions[name], face.error if has_result else None, nn, control)
        )


def _unavailable(_store: StoreContext, *_arguments: Any) -> Any:
    raise Stopped


def _host_function(
    name: str,
    operation: Callable[..., Any],
    spell: Callable[[PromptdError], Any] | None,
    nn: Nn,
    control: Control,
) -> Callable[..., Any]:
    def call(store: StoreContext, *arguments: Any) -> Any:
        control.check()
        try:
            value = operation(nn, *[_lift(store, nn, argument) for argument in arguments])
        except Stopped:
            raise
        except Exception as error:
            if spell is None:
                raise
            failure = spell(_known(name, error))
            control.check()
            return Case("err", _lower(nn, failure))
        control.check()
        return Case("ok", _lower(nn, value)) if spell else _lower(nn, value)

    return call


def _known(name: str, error: Exception) -> PromptdError:
    if isinstance(error, PromptdError):
        return error
    _log.debug("host function %s failed", name, exc_info=error)
    return RuntimeFailure(f"promptd failed in {name}; its debug log says why")


def _lift(store: StoreContext, nn: Nn, value: Any) -> Any:
    if isinstance(value, ResourceAny):
        owned = value.owned
        with value.to_host(store) as host:
            handle, number = host.rep, host.type
        kind = next(kind for kind, known in RESOURCE_TYPES.items() if known == number)
        return nn.take(handle, kind) if owned else nn.resources.get(handle, kind)
    if isinstance(value, list):
        return [_lift(store, nn, item) for item in value]
    if isinstance(value, tuple):
        return tuple([_lift(store, nn, item) for item in value])
    return value


def _lower(nn: Nn, value: Any) -> Any:
    if (number := RESOURCE_TYPES.get(type(value))) is not None:
        return ResourceHost.own(nn.hold(value), number)
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_lower(nn, item) for item in value]
    if isinstance(value, tuple):
        return tuple([_lower(nn, item) for item in value])
    return value


def record(**fields: Any) -> Record:
    """Return a WIT record; an underscore in a keyword stands for the hyphen of the WIT name."""
    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


def variant(tag: str, payload: Any) -> Variant:
    """Return a case of a WIT variant."""
    return Variant(tag, payload)
