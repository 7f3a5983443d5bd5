"""The door that runs jobs on a node."""
