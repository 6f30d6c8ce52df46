"""Build, check, publish and verify the packages of this repository."""
