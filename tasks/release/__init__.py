"""Release: gates, semantic versions, registration by reference, promotion and rollback.

These are functions for the command line, not methods of a stage: a release changes the registry, which no
cached step may do.
"""
