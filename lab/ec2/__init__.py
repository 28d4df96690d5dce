"""EC2 as the tests need it: moto's EC2 behind a layer that enforces what EC2 enforces.

`server.LabEc2` is the thing to make; `state` holds the values it publishes, `delivery` decides by them where the VPC
sends a packet. The facts come from EC2-SEMANTICS.md and the AWS API reference; code that enforces one cites it.
"""
