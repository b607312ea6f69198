"""Everything between RabbitMQ and bytes in hand: the only package that speaks AMQP.

`Deliveries` takes messages and acknowledges them when told; `Publisher` sends many at once and says what became
of each. Both stand on a `BrokerConnection` that is rebuilt after every fault. Bytes go to `envelope`.
"""

from saga_worker.broker.amqp_path import AmqpPath
from saga_worker.broker.connection import BrokerConnection, BrokerUnavailable
from saga_worker.broker.deliveries import Batch, Deliveries
from saga_worker.broker.outgoing import Confirmed, Invalid, OnOutcome, Outcome, Outgoing, Unknown, Unroutable
from saga_worker.broker.publisher import Publisher
from saga_worker.broker.topology import Topology
from saga_worker.envelope.delivery import Delivery, Properties

__all__ = [
    "AmqpPath",
    "Batch",
    "BrokerConnection",
    "BrokerUnavailable",
    "Confirmed",
    "Deliveries",
    "Delivery",
    "Invalid",
    "OnOutcome",
    "Outcome",
    "Outgoing",
    "Properties",
    "Publisher",
    "Topology",
    "Unknown",
    "Unroutable",
]
