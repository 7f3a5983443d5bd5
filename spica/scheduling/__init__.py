"""Floor 4: intake, select, group, plan, write scripts and record jobs."""
