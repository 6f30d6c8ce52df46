"""A private Python package index with the paths and answers of Sonatype Nexus."""
