"""Rules that code decides, in processes of their own."""
