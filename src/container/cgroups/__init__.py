"""Control groups, versions 1 and 2: create, limit, freeze, kill, remove."""
