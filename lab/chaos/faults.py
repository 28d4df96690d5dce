"""All that can go wrong, by name."""

from __future__ import annotations

from lab.chaos import faults_apis, faults_pod, faults_vpc
from lab.chaos.fault import FAULTS

__all__ = ["FAULTS", "faults_apis", "faults_pod", "faults_vpc"]
