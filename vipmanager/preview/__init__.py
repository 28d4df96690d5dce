"""`vipmanager plan`: looks and decides as a run does, asks EC2 by DryRun what it would allow, and changes nothing."""
