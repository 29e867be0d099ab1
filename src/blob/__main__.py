"""`python -m blob` is `docker-proxy-server`."""

import sys

from blob.cli import main

sys.exit(main())
