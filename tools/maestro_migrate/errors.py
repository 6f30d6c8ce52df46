"""What can go wrong in a migration.

MigrateError            root
    MappingError        the mapping file is wrong; says where
    GuardError          an edit would change more than it should; the file is left
"""


class MigrateError(Exception):
    """Anything this tool raises on purpose."""


class MappingError(MigrateError):
    """The mapping file is wrong."""


class GuardError(MigrateError):
    """The edited file would not mean the same; it was left as it was."""
