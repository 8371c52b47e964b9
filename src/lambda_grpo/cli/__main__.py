"""The program, as `python -m lambda_grpo.cli`: what launchers of several processes start."""

import sys

from lambda_grpo.cli.commands import main

sys.exit(main())
