"""Every option that a user may set: its type, default, range and help, all on the field itself.

`--help`, the checks and docs/options.md read them from here. The classes are plain dataclasses, which TRL's
configurations are too: the configurations of the parts inherit from them. Nothing here imports another part or a
library that is slow to import, so that `--help` comes at once.
"""
