"""Jobs: the engine as a child process, the messages between it and the viewer, and the files that they name."""
