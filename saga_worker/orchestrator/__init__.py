"""One transaction over up to 200 sagas: lock → (insert) → read → decide → save → commit. Names no column of any table.

`batch` opens the transactions over many sagas, on the general and on the fast path; `local_step` those over one saga
with an author's SQL in them. Both decide with `deciding` and write with `saving`; `contract` is what goes in and out.
"""

from saga_worker.orchestrator.addressees import name_consumers
from saga_worker.orchestrator.batch import Orchestrator
from saga_worker.orchestrator.contract import Advanced, Plan, Slots, TakenIn

__all__ = ["Advanced", "Orchestrator", "Plan", "Slots", "TakenIn", "name_consumers"]
