"""A new version of a model on its way into production: canary, health checks, both regions, soak, and no way back.

Until the old version is retired everything can be rolled back, and is: when the canary stays unhealthy, when a region
has no room, when an alarm goes off while the new version soaks, or when somebody calls it off.
"""

from __future__ import annotations

import os
from typing import Final

from pydantic import BaseModel

from saga_worker import (
    Command,
    Compensate,
    Event,
    Message,
    Retry,
    Saga,
    Step,
    Undo,
    UndoOf,
    Verdict,
    days,
    minutes,
    parallel,
    pivot,
    repeat_until,
    seconds,
)

BETWEEN_CHECKS: Final = seconds(float(os.environ.get("DEPLOYMENT_SECONDS_BETWEEN_CHECKS", "30")))
SOAK: Final = seconds(float(os.environ.get("DEPLOYMENT_SOAK_SECONDS", "3600")))
HEALTHY_IN_A_ROW: Final = 3
CHECKS_AT_MOST: Final = 20

# -- what happens, and what the others are asked for ----------------------------------------------------------------


class ModelApproved(Event):
    deployment: str
    model: str
    version: int


class DeploymentStopped(Event):
    deployment: str
    by: str


class AlarmRaised(Event):
    deployment: str
    alarm: str


class ModelDeployed(Event):
    deployment: str
    replicas: dict[str, int]


class CanaryStarted(Message):
    endpoint: str


class NoCapacity(Message):
    region: str


class StartCanary(Command[CanaryStarted, NoCapacity]):
    model: str
    version: int


class StopCanary(UndoOf[StartCanary]):
    model: str
    version: int
    endpoint: str | None  # None: nobody knows whether one was started


class Health(Message):
    healthy: bool


class CheckHealth(Command[Health]):
    endpoint: str


class RolledOut(Message):
    replicas: int


class RollOut(Command[RolledOut, NoCapacity]):
    region: str
    model: str
    version: int


class RollBack(UndoOf[RollOut]):
    region: str
    model: str
    version: int


class RetireOld(Command):
    model: str
    below: int


class Deployment(BaseModel):
    deployment: str
    model: str
    version: int
    endpoint: str | None = None
    healthy_in_a_row: int = 0
    replicas: dict[str, int] = {}


deployment = Saga("model_deployment", state=Deployment, deadline=days(2))


@deployment.starts_on(ModelApproved, key=lambda e: e.deployment)
def approved(event: ModelApproved) -> Deployment:
    return Deployment(deployment=event.deployment, model=event.model, version=event.version)


@deployment.on(DeploymentStopped, key=lambda e: e.deployment)
def stopped(model: Deployment, event: DeploymentStopped) -> Verdict:
    return Compensate(f"stopped by {event.by}")


# -- one small copy first, looked at until it has been well for a while ---------------------------------------------


@deployment.command("serving", timeout=minutes(10), retry=Retry.exponential(3))
def start_canary(model: Deployment) -> StartCanary:
    return StartCanary(model=model.model, version=model.version)


@start_canary.reply
def canary_started(model: Deployment, reply: CanaryStarted) -> Verdict:
    model.endpoint = reply.endpoint
    return None


@start_canary.undo
def stop_canary(model: Deployment) -> StopCanary:
    return StopCanary(model=model.model, version=model.version, endpoint=model.endpoint)


warm_up = deployment.sleep("warm up", BETWEEN_CHECKS)


@deployment.command("health", timeout=minutes(1), retry=Retry.exponential(3), undo=Undo.NONE)
def check_health(model: Deployment) -> CheckHealth:
    assert model.endpoint is not None
    return CheckHealth(endpoint=model.endpoint)


@check_health.reply
def checked(model: Deployment, health: Health) -> Verdict:
    model.healthy_in_a_row = model.healthy_in_a_row + 1 if health.healthy else 0
    return None


# -- then everywhere, side by side ----------------------------------------------------------------------------------


def rolled_out_to(region: str) -> Step[Deployment]:
    """The step for one region; all regions are asked in the same way."""

    @deployment.command("serving", timeout=minutes(30), name=f"roll out {region}")
    def roll_out(model: Deployment) -> RollOut:
        return RollOut(region=region, model=model.model, version=model.version)

    @roll_out.reply
    def rolled_out(model: Deployment, reply: RolledOut) -> Verdict:
        model.replicas[region] = reply.replicas
        return None

    @roll_out.rejected
    def no_room(model: Deployment, why: NoCapacity) -> Verdict:
        return Compensate(f"no room in {why.region}")

    @roll_out.undo
    def roll_back(model: Deployment) -> RollBack:
        return RollBack(region=region, model=model.model, version=model.version)

    return roll_out


# -- and watched, until an alarm goes off or an hour is over --------------------------------------------------------

soak = deployment.sleep("soak", SOAK)
alarm = deployment.wait("alarm")


@alarm.on(AlarmRaised, key=lambda e: e.deployment)
def alarmed(model: Deployment, event: AlarmRaised) -> Verdict:
    return Compensate(f"alarm: {event.alarm}")


@deployment.command("serving", timeout=minutes(10), retry=Retry.exponential(10), undo=Undo.NONE)
def retire_old(model: Deployment) -> RetireOld:
    return RetireOld(model=model.model, below=model.version)


@deployment.emit
def announce(model: Deployment) -> ModelDeployed:
    return ModelDeployed(deployment=model.deployment, replicas=model.replicas)


deployment.flow(
    start_canary,
    repeat_until(
        lambda model: model.healthy_in_a_row == HEALTHY_IN_A_ROW,
        warm_up,
        check_health,
        times=CHECKS_AT_MOST,
        name="until the canary is well",
    ),
    parallel(rolled_out_to("eu"), rolled_out_to("us")),
    parallel(soak, alarm, join="any"),
    pivot(retire_old),
    announce,
)
