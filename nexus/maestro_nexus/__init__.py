"""Set up a real Sonatype Nexus for these packages, and check one that exists."""
