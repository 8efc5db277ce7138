"""The fault harness: real graphs, real faults, and what became of them (`simpl faults`, docs/faults.md)."""
