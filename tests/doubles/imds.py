"""`FakeImds`: the discovery port."""

from __future__ import annotations

from collections.abc import Mapping

from tests.doubles.ec2 import FakeEc2
from tests.doubles.faults import Faults
from vipmanager.model import Eni


class FakeImds:
    """What IMDS tells of some of a FakeEc2's ENIs: those that are attached to this worker."""

    def __init__(self, ec2: FakeEc2, *eni_ids: str, region: str = "us-east-2") -> None:
        self.faults = Faults()
        self.eni_ids = list(eni_ids)
        self._ec2 = ec2
        self._region = region

    def region(self) -> str:
        """See DiscoveryPort."""
        self.faults.begin("region")
        return self._region

    def enis(self) -> Mapping[str, Eni]:
        """See DiscoveryPort."""
        self.faults.begin("enis")
        state = self._ec2.state
        found = (state.enis[eni_id] for eni_id in self.eni_ids if eni_id in state.enis)
        return {
            eni.mac: Eni(
                eni.id,
                eni.mac,
                eni.device_index,
                eni.subnet_id,
                state.subnets[eni.subnet_id][1],
                eni.vpc_id,
                state.vpcs[eni.vpc_id],
                eni.owner_id,
            )
            for eni in found
        }
