"""What every service has its own copy of."""

from .audit_logger import Actor, AuditLogger
from .service_registry import ServiceRegistry

__all__ = ["Actor", "AuditLogger", "ServiceRegistry"]
