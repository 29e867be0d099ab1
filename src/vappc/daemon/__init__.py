"""The daemon: it listens, dispatches requests to the engine, and looks after the registry's process."""
