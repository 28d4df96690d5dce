"""Custom resources: CIDR reservations of the floating subnets, and tags on route tables that are not the stack's.

CloudFormation has no type for such tags, and AWS::EC2::SubnetCidrReservation is younger than this and unknown to the
tools that check the templates (docs/release.md). Events and answers: CloudFormation user guide, "Custom resource
request types" and "response objects". A call that is not answered leaves the stack waiting for an hour, so every
outcome is answered, and each call may come twice. What is to be taken away and is gone is done.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

Event = dict[str, Any]

log = logging.getLogger()
log.setLevel(logging.INFO)
ec2 = boto3.client("ec2")


def handler(event: Event, context: object) -> None:
    """Entry point: do what the stack asks for, and answer it."""
    answer = {"Status": "SUCCESS", "PhysicalResourceId": event.get("PhysicalResourceId", "none")}
    try:
        kinds = {"Custom::SubnetCidrReservation": reservation, "Custom::RouteTableTags": route_table_tags}
        answer["PhysicalResourceId"] = kinds[event["ResourceType"]](event)
    except Exception as error:  # whatever it is, the stack must be told
        log.exception("failed request=%s", event["RequestType"])
        answer |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    answer |= {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    respond(event["ResponseURL"], json.dumps(answer).encode())


def respond(url: str, body: bytes) -> None:
    """Put the answer where the stack waits for it. The URL is signed for a request without a content type."""
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})
    with urllib.request.urlopen(request, timeout=10):
        log.info("answered %s", body.decode())


def reservation(event: Event) -> str:
    """Reserve a CIDR of a subnet, so that EC2 gives none of its addresses away ("explicit"). Returns its id."""
    subnet, cidr = event["ResourceProperties"]["SubnetId"], event["ResourceProperties"]["Cidr"]
    if event["RequestType"] == "Delete":
        if event["PhysicalResourceId"] != "none":  # "none" was never made
            unless_gone(ec2.delete_subnet_cidr_reservation, SubnetCidrReservationId=event["PhysicalResourceId"])
        return event["PhysicalResourceId"]
    for each in ec2.get_subnet_cidr_reservations(SubnetId=subnet)["SubnetIpv4CidrReservations"]:
        if each["Cidr"] == cidr:
            return each["SubnetCidrReservationId"]
    made = ec2.create_subnet_cidr_reservation(
        SubnetId=subnet, Cidr=cidr, ReservationType="explicit", Description="Floating addresses"
    )
    return made["SubnetCidrReservation"]["SubnetCidrReservationId"]


def route_table_tags(event: Event) -> str:
    """Tag these route tables, and no longer those of before. A tag is taken away with its value: another stays."""
    before = event.get("OldResourceProperties") if event["RequestType"] == "Update" else None
    after = event["ResourceProperties"]
    if event["RequestType"] == "Delete":
        before, after = after, None
    tagged, stale = tags_of(after), tags_of(before)
    for tag in tagged:
        ec2.create_tags(Resources=[tag[0]], Tags=[{"Key": tag[1], "Value": tag[2]}])
    kept = {(table, key) for table, key, _ in tagged}
    there = existing([table for table, _, _ in stale])
    for table, key, value in stale:
        if table in there and (table, key) not in kept:
            unless_gone(ec2.delete_tags, Resources=[table], Tags=[{"Key": key, "Value": value}])
    return f"{event['LogicalResourceId']}-{event['StackId'].rpartition('/')[2]}"


def existing(tables: list[str]) -> set[str]:
    """Those that are there. Of one that is gone IAM knows no VPC, and would deny the call; a filter passes over it."""
    if not tables:
        return set()
    pages = ec2.get_paginator("describe_route_tables").paginate(Filters=[{"Name": "route-table-id", "Values": tables}])
    return {table["RouteTableId"] for page in pages for table in page["RouteTables"]}


def unless_gone(call: Callable[..., Any], **given: Any) -> None:
    """Take something away; that it, or what it was on, is not there any more is as good ("Error codes for the Amazon
    EC2 API": they all end so)."""
    try:
        call(**given)
    except ClientError as error:
        if not error.response["Error"]["Code"].endswith(".NotFound"):
            raise
        log.info("gone already: %s", error)


def tags_of(properties: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Each route table with the tag's key and value; an empty list of parameters comes as [""]."""
    if not properties:
        return []
    return [(each, properties["Key"], properties["Value"]) for each in properties["RouteTableIds"] if each]
