"""What is measured, how it is stored and shown, and what would spoil it."""
