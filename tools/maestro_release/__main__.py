"""Entry point of the command maestro-release."""

import gc
import os
import sys


def main() -> int:
    """Run the command; return its exit code."""
    try:
        from maestro_release.cli import run  # slow enough to be interrupted

        return run()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as with `maestro-release plan | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        gc.freeze()  # else the interpreter searches all modules for 0.1 s as it ends


if __name__ == "__main__":
    sys.exit(main())
