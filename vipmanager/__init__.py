"""vipmanager makes an Amazon VPC deliver the floating addresses of Multus pods on EKS."""

__version__ = "0.1.0"
