"""A participant that answers every command at once with the command's own body, and costs a few microseconds each.

`python -m benchmarks.harness.echo AMQP_URL NAMESPACE [TYPE=ANSWER …]` binds a queue to all commands of the namespace.
The answer's type is `echoed`, or what is given for the type of the command; `TYPE=ANSWER:BODY` gives the body too. A
delivery is acknowledged when its answer is confirmed. Prints `ready` once it consumes.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.harness.amqp import Amqp, Delivery, Message, pack_properties, read_properties

QUORUM: dict[str, str | int | bool] = {"x-queue-type": "quorum"}


def queue_of(namespace: str) -> str:
    return f"{namespace}.echo"


async def echo(url: str, namespace: str, answers: dict[str, str]) -> None:
    """Answer until the connection ends. One channel takes and gives: the n-th answer belongs to the n-th delivery."""
    amqp = await Amqp.connect(url)

    def answer(deliveries: list[Delivery]) -> None:
        amqp.publish([_answer(delivery, answers) for delivery in deliveries])

    amqp.on_deliveries = answer
    amqp.on_confirmed = amqp.ack
    await amqp.declare_exchange(f"{namespace}.commands")
    await amqp.declare_queue(queue_of(namespace), QUORUM)
    await amqp.bind(queue_of(namespace), f"{namespace}.commands", "#")
    await amqp.consume(queue_of(namespace))
    print("ready", flush=True)
    await amqp.closed.wait()
    sys.exit(str(amqp.failure))


def _answer(delivery: Delivery, answers: dict[str, str]) -> Message:
    command = read_properties(delivery.properties)
    id_ = command["message_id"]
    type_, has_body, body = answers.get(command["type"], "echoed").partition(":")
    properties = pack_properties(message_id=f"r-{id_}", type=type_, correlation_id=id_, app_id="echo")
    return Message("", command["reply_to"], properties, body.encode() if has_body else delivery.body)


if __name__ == "__main__":
    asyncio.run(echo(sys.argv[1], sys.argv[2], dict(pair.split("=", 1) for pair in sys.argv[3:])))
