"""`python -m lambda_grpo.cli`, for launchers that take a module."""

import sys

from lambda_grpo.cli.commands import main

sys.exit(main())
