"""Bytes and properties of a delivery to inbox rows: what is accepted, what is refused, and why.

Pure: knows neither broker nor database. `broker` makes a `Delivery` of frames, `read` makes rows of it, and
`consumer` stores them. `load_delivery` gives a stored message back, to be read once more.
"""

from saga_worker.envelope.delivery import Delivery, FieldValue, Properties, Source
from saga_worker.envelope.properties import dump_delivery, dump_properties, load_delivery, load_properties
from saga_worker.envelope.rows import EnvelopeLimits, read, unstorable

__all__ = [
    "Delivery",
    "EnvelopeLimits",
    "FieldValue",
    "Properties",
    "Source",
    "dump_delivery",
    "dump_properties",
    "load_delivery",
    "load_properties",
    "read",
    "unstorable",
]
