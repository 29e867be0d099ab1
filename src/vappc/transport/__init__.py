"""How bytes travel: addresses, connecting, listening, and who is at the other end."""
