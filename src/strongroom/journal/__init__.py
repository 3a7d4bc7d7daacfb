"""What changed after a snapshot: a change log of sealed segments, one after another, written beside the snapshots."""
