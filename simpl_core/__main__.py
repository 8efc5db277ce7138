"""`simpl` and `python -m simpl_core`: the command line, which Ctrl-C may stop even while it loads."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command in `sys.argv`; returns its exit code."""
    try:
        from simpl_core import cli
    except KeyboardInterrupt:
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
