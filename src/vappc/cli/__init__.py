"""The command `vappc`: a thin skin over the client library. stdout is data, stderr is talk."""
