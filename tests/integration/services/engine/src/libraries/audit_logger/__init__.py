from .core import Actor, AuditLogger

__all__ = ["Actor", "AuditLogger"]
