"""The process that forks containers and owns their stdio, logs and exit codes."""
