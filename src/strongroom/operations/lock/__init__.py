"""What object lock must keep, how it is kept on, and how what was hidden or overwritten comes back."""
