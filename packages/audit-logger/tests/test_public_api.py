"""What is promised at the top, and what importing costs."""

import subprocess
import sys

import maestro_audit_logger
import pytest
from maestro_audit_logger import errors

RUN = [sys.executable, "-c"]


def test_every_promised_name_is_there():
    """`__all__` is sorted, complete and importable."""
    assert maestro_audit_logger.__all__ == sorted(
        maestro_audit_logger.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n)
    )
    for name in maestro_audit_logger.__all__:
        assert name in dir(maestro_audit_logger)
        assert getattr(maestro_audit_logger, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = maestro_audit_logger.nothing


def test_every_error_has_the_one_root():
    """Users can catch AuditError."""
    leaves = [
        e
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, Exception)
    ]
    assert len(leaves) >= 11
    assert all(issubclass(error, errors.AuditError) for error in leaves)
    for error in leaves:
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize(
    "code",
    [
        "import maestro_audit_logger",
        "from maestro_audit_logger import AuditLogger, Actor",
        (
            "from maestro_audit_logger import AuditLogger as A, Actor; import tempfile;"
            "a = A(tempfile.mkdtemp() + '/a', origin='x', actor=Actor.user('u'));"
            "a.record('a.b'); a.close()"
        ),
    ],
)
def test_importing_and_recording_cost_no_asyncio_sqlite_or_extras(code):
    """They load when something needs them."""
    heavy = (
        "asyncio sqlite3 cryptography orjson pyarrow opentelemetry ssl inspect zipfile"
    )
    check = f"; import sys; print([m for m in {heavy.split()} if m in sys.modules])"
    found = subprocess.run([*RUN, code + check], capture_output=True, check=True).stdout
    unwanted = set(eval(found))
    assert unwanted - {"inspect"} == set()  # dataclasses imports inspect itself


def test_the_signer_of_the_extra_is_promised_too(ed25519):
    """Re-exported like the rest where cryptography is installed."""
    assert ed25519 is maestro_audit_logger.Ed25519Signer


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("exporters._otel", "otel"),
        ("exporters._parquet", "parquet"),
    ],
)
def test_a_missing_extra_names_its_install_line(module, extra):
    """Instead of a bare ModuleNotFoundError."""
    code = (
        "import sys\n"
        "for name in ('cryptography', 'pyarrow', 'opentelemetry'): sys.modules[name] = None\n"
        f"try:\n    import maestro_audit_logger.{module}\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([*RUN, code], capture_output=True, check=True)
    assert f'pip install "maestro-audit-logger[{extra}]"' in done.stdout.decode()


def test_a_star_import_needs_no_extra():
    """The signer is there, and names its extra when it is to sign."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from maestro_audit_logger import *\n"
        "try:\n    Ed25519Signer.generate('app.example')\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([*RUN, code], capture_output=True, check=True)
    assert 'pip install "maestro-audit-logger[crypto]"' in done.stdout.decode()
