"""AWS and two workers on one Linux box: EC2, IMDS and the VPC's network, for the tests, the demo and the benchmark."""
