"""An AMQP 0-9-1 broker in memory, for demo and tests on a machine without RabbitMQ; never for production.

`TrialBroker` runs inside a process, `python -m saga_worker.trial.broker` in one of its own. A message's way through
it: connection → channel → publishing → vhost (exchanges) → queues → deliveries → connection; `dead_letters` is the
way back. `tests/stages/test_broker_parity.py` holds it to what RabbitMQ does.
"""

from .server import TrialBroker

__all__ = ["TrialBroker"]
