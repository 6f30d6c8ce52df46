"""What can go wrong in a release, and the exit code that says so.

ReleaseError                  root; `exit_code` is what the command returns
    GateFailed            1   a check of the files or of the install did not pass
        BuildFailed       1   a package does not build
        VerifyFailed      1   the index does not deliver what was published
    Busy                  1   another release runs in this checkout
    UsageFault            2   a wrong name, option or setting
    IndexFault            3   the index cannot be used
        IndexUnreachable  3   nothing answers, or not in time
        IndexRefused      3   it answers, but refuses us
    Conflict              4   this version is published with other bytes
"""

from dataclasses import dataclass


class ReleaseError(Exception):
    """Anything this tool raises on purpose: what is wrong and what to do."""

    exit_code = 1


class GateFailed(ReleaseError):
    """A check did not pass; nothing more was done."""


class BuildFailed(GateFailed):
    """A package does not build."""


class VerifyFailed(GateFailed):
    """The index does not deliver what was published."""


class Busy(ReleaseError):
    """Another release runs in this checkout."""


class UsageFault(ReleaseError):
    """A wrong name, option or setting."""

    exit_code = 2


class IndexFault(ReleaseError):
    """The index cannot be used."""

    exit_code = 3


class IndexUnreachable(IndexFault):
    """Nothing answers, or not in time."""


class IndexRefused(IndexFault):
    """The index answers, but refuses; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        """Keep the status beside the message."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One file whose bytes differ from the published ones."""

    filename: str
    built: str
    published: str


class Conflict(ReleaseError):
    """A version is published already, with other bytes."""

    exit_code = 4

    def __init__(
        self, differences: tuple[Difference, ...], *, begun: bool = False
    ) -> None:
        """Name every file with both hashes.

        Args:
            differences: the files.
            begun: whether the upload had begun when this was found.
        """
        lines = "\n".join(
            f"  {d.filename}\n    built      sha256 {d.built}\n"
            f"    published  sha256 {d.published}"
            for d in differences
        )
        count = len(differences)
        super().__init__(
            f"{count} {'file is' if count == 1 else 'files are'} published already "
            f"with other bytes:\n{lines}\n"
            + (
                "somebody else published them while this release was uploading; "
                if begun
                else "nothing was uploaded; "
            )
            + "raise the version of the package, "
            "or restore the files as they were released"
        )
        self.differences = differences
