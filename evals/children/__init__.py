"""Programs that run in a process of their own; heavy libraries are imported here and nowhere else in this room."""
