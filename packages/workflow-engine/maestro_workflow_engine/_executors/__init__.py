"""Where attempts run. Each module holds one kind of executor; none is imported early."""
