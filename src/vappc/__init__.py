"""The daemon `vappc-linux-daemon`, its client library and the `vappc` command."""
