"""A query is asked: the author's function sees a copy of the state that nobody else has.

Takes a query and stored bytes, guarantees that the saga knows nothing of it, whatever the function does, and hands
back the answer, or one sentence without values.
"""

from __future__ import annotations

from pydantic import BaseModel

from saga_worker.saga.decide import describe_error
from saga_worker.saga.errors import QueryFailed
from saga_worker.saga.queries import A, Query, S
from saga_worker.saga.upcast import upcasted


def answer(query: Query[S, A], state: bytes) -> A:
    """The answer for this stored state; raises `QueryFailed`."""
    try:
        model = query.saga.state_model
        copy: S = model.__pydantic_validator__.validate_json(upcasted(model, state), by_name=True, by_alias=False)
        found = query.answer(copy)
        _check(found, query.answer_model)
    except Exception as error:
        why = describe_error(error, query.answer)
        raise QueryFailed(f"Query {query.name} of {query.saga.name}, version {query.saga.version}: {why}.") from None
    return found


def _check(found: object, wanted: type[BaseModel]) -> None:
    """What came back has to be what the annotation says: whoever asked relies on it."""
    if not isinstance(found, wanted):
        raise TypeError(f"it returned {type(found).__name__}; return {wanted.__name__}, as it is annotated")
