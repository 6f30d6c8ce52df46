"""Entry point of the command maestro-release."""

import sys


def main() -> int:
    """Run the command; return its exit code."""
    try:
        from maestro_release.cli import run  # slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
