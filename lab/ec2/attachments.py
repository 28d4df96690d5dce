"""ENIs on instances: AttachNetworkInterface and DetachNetworkInterface, which take their time.

The states are those of "NetworkInterfaceAttachment" in the EC2 API reference: attaching, attached, detaching; then the
ENI is `available` and has no attachment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.ec2 import params, strict
from lab.ec2.errors import Ec2Error, invalid_value, missing
from lab.ec2.params import Params, required
from lab.ec2.render import element
from lab.ec2.state import Eni, Instance, instance_runs
from lab.ec2.world import DONE, Afterwards, World, Write

_FORCED_WITHIN = 1.0  # seconds: what a forced detachment takes at most

_ATTACHING, _DETACHING = "attaching", "detaching"


def attach_network_interface(world: World, request: Params) -> str:
    """AttachNetworkInterface: an ENI that is free, to a device index that is, in one Availability Zone."""
    state = world.state
    eni = strict.eni(state, required(request, "NetworkInterfaceId"))
    instance = strict.instance(state, required(request, "InstanceId"))
    index = params.count(request, "DeviceIndex")
    if index is None:
        raise missing("deviceIndex")
    _check_attach(world, eni, instance, index)
    attachment_id = world.backend.get_instance(instance.instance_id).attach_eni(world.backend.enis[eni.eni_id], index)
    world.transitions[attachment_id] = _ATTACHING
    world.changed()
    world.later(world.delays.attach, lambda world: _finish_attach(world, attachment_id))
    return element("attachmentId", attachment_id) + element("networkCardIndex", 0)


def _check_attach(world: World, eni: Eni, instance: Instance, index: int) -> None:
    """The refusals; their texts are those that users of EC2 quote."""
    if instance.state in ("terminated", "shutting-down"):
        raise Ec2Error("IncorrectInstanceState", f"The instance '{instance.instance_id}' is not in a valid state")
    if eni.attachment:  # a detachment that is under way, too
        raise Ec2Error("InvalidNetworkInterface.InUse", f"Interface: [{eni.eni_id}] in use.")
    if eni.availability_zone != instance.availability_zone:
        raise Ec2Error(
            "InvalidParameterCombination",
            "You may not attach a network interface to an instance if they are not in the same availability zone",
        )
    held = world.state.enis_of_instance(instance.instance_id)
    if any(each.device_index == index for each in held):
        raise invalid_value(
            f"Instance '{instance.instance_id}' already has an interface attached at device index '{index}'."
        )
    if len(held) >= world.quotas.enis_of(instance.instance_type):
        raise Ec2Error(
            "AttachmentLimitExceeded", f"Interface count {len(held) + 1} exceeds the limit for {instance.instance_type}"
        )


def _finish_attach(world: World, attachment_id: str) -> None:
    """Unless it has been detached again meanwhile."""
    if world.transitions.get(attachment_id) == _ATTACHING:
        del world.transitions[attachment_id]
        world.changed()


def detach_network_interface(world: World, request: Params) -> str:
    """DetachNetworkInterface: never of device index 0.

    `Force`: "If you force the detachment of a network interface, the instance metadata might not get updated" and, of
    an instance that failed, it is the way to get the ENI off (API reference).
    """
    attachment_id = required(request, "AttachmentId")
    forced = params.flag(request, "Force")
    eni = _attached_by(world, attachment_id)
    if eni is None:
        raise Ec2Error(
            "InvalidAttachmentID.NotFound", f"The networkInterface attachment ID '{attachment_id}' does not exist"
        )
    if eni.device_index == 0:
        raise Ec2Error(
            "OperationNotPermitted",
            "The network interface at device index 0 and networkCard index 0 cannot be detached.",
        )
    if world.transitions.get(attachment_id) == _DETACHING and not forced:
        raise Ec2Error("IncorrectState", f"Attachment '{attachment_id}' is already detaching.")
    instance_id = eni.instance.id
    world.transitions[attachment_id] = _DETACHING
    world.changed()
    if forced or not world.delays.stuck_detach or not instance_runs(world.state.instances.get(instance_id)):
        seconds = min(world.delays.detach, _FORCED_WITHIN) if forced else world.delays.detach
        world.later(seconds, lambda world: _finish_detach(world, attachment_id))
    return DONE


def _attached_by(world: World, attachment_id: str) -> Any:
    """moto's ENI that has this attachment, or None."""
    return next((eni for eni in world.backend.enis.values() if eni.attachment_id == attachment_id), None)


def _finish_detach(world: World, attachment_id: str) -> None:
    """Unless it is gone: with its instance, or because it was forced meanwhile."""
    eni = _attached_by(world, attachment_id)
    if eni is None:
        return
    world.transitions.pop(attachment_id, None)
    eni.instance.detach_eni(eni)
    world.changed()


def after_stop_instances(world: World, request: Params) -> None:
    """No guest holds on to an ENI any more: detachments that were stuck end."""
    for instance_id in params.items(request, "InstanceId"):
        for eni in world.state.enis_of_instance(instance_id):
            attachment = eni.attachment
            if attachment and attachment.status == _DETACHING:
                _finish_later(world, attachment.attachment_id)


def _finish_later(world: World, attachment_id: str) -> None:
    world.later(world.delays.detach, lambda world: _finish_detach(world, attachment_id))


AFTERWARDS: Mapping[str, Afterwards] = {"StopInstances": after_stop_instances}

WRITES: Mapping[str, Write] = {
    "AttachNetworkInterface": attach_network_interface,
    "DetachNetworkInterface": detach_network_interface,
}
