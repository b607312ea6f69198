"""Everything between RabbitMQ and bytes in hand: the only package that speaks AMQP.

`Deliveries` takes messages and acknowledges them when told; `Publisher` sends many at once and says what became
of each. Both stand on a `BrokerConnection` that is rebuilt after every fault. Bytes go to `envelope`.
"""

from saga_worker.broker.connection import BrokerConnection, BrokerUnavailable
from saga_worker.broker.topology import Topology

__all__ = [
    "BrokerConnection",
    "BrokerUnavailable",
    "Topology",
]
