"""Where the processes of attempts run."""
