"""Gives each node its Multus ENIs: one for each subnet in the launch hook's metadata, in that order.

Called with the events of two lifecycle hooks ("Amazon EC2 Auto Scaling event reference"), and by a schedule, as such
events are "produced on a best-effort basis". Each call may come twice, late, in the wrong order, or end in the middle
(Lambda developer guide, "How Lambda handles errors and retries with asynchronous invocation"). Nothing is remembered:
an ENI carries the node and the index it is for in its tags from the call that makes it, and each call looks at what is
there and does the rest. What fails is raised, and Lambda calls again, twice; then the hook's time is over, and the node
is given up.

An attached ENI is deleted by EC2 with its node, any other by the terminate hook or the schedule: none is left over.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

# The VPC CNI keeps away from what has this tag (amazon-vpc-cni-k8s, README and pkg/awsutils).
NO_MANAGE = "node.k8s.amazonaws.com/no_manage"
GROUP, NODE, INDEX = "multus/node-group", "multus/node", "multus/index"

# Calling again cannot help: the node is given up at once, and the group launches another. A denial is not among them:
# IAM is "eventually consistent" as well, and a policy of the same stack may be seconds old.
HOPELESS = {
    "AttachmentLimitExceeded",  # the instance type has fewer ENIs (EC2 user guide, "Maximum IP addresses")
    "IdempotentParameterMismatch",
    "InvalidGroup.NotFound",
    "InvalidInstanceID.NotFound",
    "InvalidParameter",  # security group and subnet in different VPCs
    "InvalidParameterCombination",  # subnet and node in different Availability Zones
    "InvalidSecurityGroupID.NotFound",
    "InvalidSubnetID.NotFound",
}
GONE = {"InvalidNetworkInterfaceID.NotFound"}
RESERVE_MS = 15_000  # what is kept of Lambda's time to end in order
PAUSES = (0.5, 1, 2, 4, 8, 14.5)  # s; what EC2 has made may be unknown to its other calls for a while

Event = dict[str, Any]  # the `detail` of an event
Eni = dict[str, Any]  # as EC2 describes it

log = logging.getLogger()
log.setLevel(logging.INFO)
ec2 = boto3.client("ec2")  # AWS_RETRY_MODE and AWS_MAX_ATTEMPTS are set in the template
autoscaling = boto3.client("autoscaling")


def handler(event: Event, context: Any) -> None:
    """Entry point: an event of a lifecycle hook, or of the schedule."""
    detail = event.get("detail", {})
    transition = detail.get("LifecycleTransition")
    if transition == "autoscaling:EC2_INSTANCE_LAUNCHING":
        launch(detail, context)
    elif transition == "autoscaling:EC2_INSTANCE_TERMINATING":
        terminate(detail)
    else:
        sweep()


def launch(detail: Event, context: Any) -> None:
    """Make, attach and set up the ENIs of a node that waits for them, then let it go on."""
    node = detail["EC2InstanceId"]
    if not waits(node):
        log.warning("late node=%s", node)
        remove(node)
        return
    wanted = json.loads(detail["NotificationMetadata"])
    try:
        there = enis(node)
        for index, subnet in enumerate(wanted["subnets"], 1):
            groups = wanted["groups"]
            group = groups[min(index, len(groups)) - 1]  # one for each index, or one for all
            eni = there.get(index) or create(node, index, subnet, group)
            attach(node, index, eni, context)
    except ClientError as error:
        if code_of(error) not in HOPELESS:
            raise
        log.error("abandon node=%s error=%s", node, error)
        complete(detail, "ABANDON")
        remove(node)
        return
    complete(detail, "CONTINUE")


def terminate(detail: Event) -> None:
    """Let the node end, whatever happens here; its attached ENIs serve it until then."""
    try:
        remove(detail["EC2InstanceId"])
    finally:
        complete(detail, "CONTINUE")


def sweep() -> None:
    """Delete the ENIs of nodes that are no more."""
    free = [eni for eni in described({"status": "available"}) if NODE in tags(eni)]
    for node in sorted({tags(eni)[NODE] for eni in free}):
        if ended(node):
            remove(node)


def create(node: str, index: int, subnet: str, group: str) -> Eni:
    """Make an ENI with its tags. The token makes a second call return the first one's ENI."""
    given = {
        "Name": f"{os.environ['NODE_GROUP']} {node} eth{index}",
        GROUP: os.environ["NODE_GROUP"],
        NODE: node,
        INDEX: str(index),
        NO_MANAGE: "true",
    }
    made = ec2.create_network_interface(
        SubnetId=subnet,
        Groups=[group],
        Description=f"Multus eth{index} of {node}",
        ClientToken=f"{node}-{index}",
        TagSpecifications=[
            {"ResourceType": "network-interface", "Tags": [{"Key": key, "Value": given[key]} for key in given]}
        ],
    )["NetworkInterface"]
    log.info("created eni=%s node=%s index=%s", made["NetworkInterfaceId"], node, index)
    return made


def attach(node: str, index: int, eni: Eni, context: Any) -> None:
    """Attach the ENI and set its attributes, one a call as EC2 wants it; returns when it is attached."""
    eni_id = eni["NetworkInterfaceId"]
    if eni.get("SourceDestCheck", True):  # packets of floating addresses carry none of the ENI's own
        change = {"NetworkInterfaceId": eni_id, "SourceDestCheck": {"Value": False}}
        known(context, ec2.modify_network_interface_attribute, **change)
    if not eni.get("Attachment"):
        try:
            where = {"NetworkInterfaceId": eni_id, "InstanceId": node, "DeviceIndex": index}
            known(context, ec2.attach_network_interface, **where)
        except ClientError:
            if not held(eni_id).get("InstanceId"):  # not attached by another call of this event
                raise
    while (attachment := held(eni_id)).get("Status") != "attached":
        if context.get_remaining_time_in_millis() < RESERVE_MS:
            raise TimeoutError(f"{eni_id} is still not attached to {node}")
        time.sleep(1)
    if (attachment["InstanceId"], attachment["DeviceIndex"]) != (node, index):
        raise RuntimeError(f"{eni_id} is attached elsewhere: {attachment}")
    keep_with_node(eni_id, attachment)
    log.info("attached eni=%s node=%s index=%s", eni_id, node, index)


def known(context: Any, call: Callable[..., Any], **given: Any) -> None:
    """Make a call about an ENI made just now, again for 30 s while EC2 does not know it yet (EC2 developer guide,
    "Eventual consistency"); Lambda's own retry would come after a minute."""
    for pause in PAUSES:
        try:
            call(**given)
            return
        except ClientError as error:
            if code_of(error) not in GONE or context.get_remaining_time_in_millis() < RESERVE_MS + 1000 * pause:
                raise
        time.sleep(pause)
    call(**given)


def keep_with_node(eni_id: str, attachment: dict[str, Any]) -> None:
    """Let EC2 delete the ENI with its node: for one attached later that is not the default."""
    if not attachment["DeleteOnTermination"]:
        change = {"AttachmentId": attachment["AttachmentId"], "DeleteOnTermination": True}
        ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Attachment=change)


def remove(node: str) -> None:
    """Delete the node's ENIs that are not attached, and let the others end with it. Tries all before it fails."""
    failed = None
    for eni in described({f"tag:{NODE}": node}):
        try:
            if eni.get("Attachment"):
                keep_with_node(eni["NetworkInterfaceId"], eni["Attachment"])
            else:
                delete(eni["NetworkInterfaceId"])
        except ClientError as error:
            log.error("left eni=%s node=%s error=%s", eni["NetworkInterfaceId"], node, error)
            failed = error
    if failed:
        raise failed


def delete(eni_id: str) -> None:
    """Delete an ENI, unless it is gone, or was attached meanwhile and so ends with its node."""
    try:
        ec2.delete_network_interface(NetworkInterfaceId=eni_id)
        log.info("deleted eni=%s", eni_id)
    except ClientError as error:
        if code_of(error) in GONE:
            return
        attachment = held(eni_id)
        if not attachment:
            raise
        keep_with_node(eni_id, attachment)


def complete(detail: Event, result: str) -> None:
    """End the lifecycle action, if there is one: "No active Lifecycle Action found" is a ValidationError."""
    try:
        autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=detail["AutoScalingGroupName"],
            LifecycleHookName=detail["LifecycleHookName"],
            LifecycleActionToken=detail["LifecycleActionToken"],
            LifecycleActionResult=result,
        )
    except ClientError as error:
        if code_of(error) != "ValidationError":
            raise
        log.warning("no lifecycle action node=%s error=%s", detail["EC2InstanceId"], error)
        return
    log.info("completed node=%s result=%s", detail["EC2InstanceId"], result)


def waits(node: str) -> bool:
    """Whether the node is on its way into the group (or a warm pool): it is not when the event is late."""
    found = autoscaling.describe_auto_scaling_instances(InstanceIds=[node])["AutoScalingInstances"]
    return any("Pending" in each["LifecycleState"] for each in found)


def ended(node: str) -> bool:
    """Whether neither Auto Scaling nor EC2 knows the node as one that may still get ENIs."""
    if autoscaling.describe_auto_scaling_instances(InstanceIds=[node])["AutoScalingInstances"]:
        return False
    found = ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": [node]}])["Reservations"]
    states = {instance["State"]["Name"] for each in found for instance in each["Instances"]}
    return states <= {"shutting-down", "terminated"}


def enis(node: str) -> dict[int, Eni]:
    """The node's ENIs by device index."""
    return {int(tags(eni)[INDEX]): eni for eni in described({f"tag:{NODE}": node})}


def held(eni_id: str) -> dict[str, Any]:
    """How the ENI is attached now; empty if it is not, or not to be seen yet (EC2 is "eventually consistent")."""
    found = described({"network-interface-id": eni_id})
    return found[0].get("Attachment") or {} if found else {}


def described(filters: dict[str, str]) -> list[Eni]:
    """All ENIs of this node group that match."""
    wanted = {f"tag:{GROUP}": os.environ["NODE_GROUP"], **filters}
    asked = [{"Name": name, "Values": [wanted[name]]} for name in wanted]
    pages = ec2.get_paginator("describe_network_interfaces").paginate(Filters=asked)
    return [eni for page in pages for eni in page["NetworkInterfaces"]]


def tags(eni: Eni) -> dict[str, str]:
    """Its tags."""
    return {tag["Key"]: tag["Value"] for tag in eni.get("TagSet", [])}


def code_of(error: ClientError) -> str:
    """EC2's or Auto Scaling's word for what went wrong."""
    return error.response["Error"]["Code"]
